"""Read one revision by row: no lock, no database, only immutable files."""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evolvedirector.records import IMAGE_ROLE, check_role
from evolvedirector.records.buckets import BucketSize, checked_buckets, nearest_bucket
from evolvedirector.records.split import Split
from evolvedirector.records.subset import EVERYTHING, Subset
from evolvedirector.store.dataset import check_format
from evolvedirector.store.delta import Revision
from evolvedirector.store.errors import MissingRoleError, StoreError
from evolvedirector.store.files import split_member
from evolvedirector.store.mirror import RootCache, local_root, mirror_of
from evolvedirector.store.naming import collected_revisions
from evolvedirector.store.order import KeyedOrder, aspect_bucket
from evolvedirector.store.revision import RevisionFiles
from evolvedirector.store.shards import MEMBERS_OF_AN_IMAGE, open_index, sample_starts
from evolvedirector.store.tar_cache import touch
from evolvedirector.store.trained_rows import trained_rows

_MAX_OPEN_SHARDS = 256  # well under the usual limit of 1024 open files
_NOT_OPEN = -1
_TOUCH_EVERY_S = 10.0
_OWN, _NOWHERE = -1, -2  # in place of the number of a companion


class _OpenShard(NamedTuple):
    descriptor: int
    """Of the tar. Below 0: it is opened when bytes of it are read."""
    records: np.ndarray
    """Of the index, [members]."""
    starts: Sequence[int]
    """Where the records of each sample begin, and their number."""
    tar_bytes: int


class RevisionReader:
    """The samples that one revision trains on (live and mastered), as rows that can be read in any order.

    A prompt with variants has one row for each. A copy in another process (forked or pickled) is safe: positions are
    given with every read, and a pickled reader opens the files again.
    """

    def __init__(
        self,
        root: str | Path,
        revision_sha: str,
        roles: Sequence[str] = (IMAGE_ROLE,),
        buckets: Sequence[BucketSize] = (),
        subset: Subset = EVERYTHING,
        split: Split | None = None,
        optional_roles: Sequence[str] = (),
        cache: RootCache | None = None,
    ) -> None:
        """Open a revision.

        Args:
            root: The dataset root, or the URL of one.
            revision_sha: Which revision; at least 6 characters of it.
            roles: Files to read of each sample; no others are read.
            buckets: Sizes (width, height) in px that images are trained in; a batch of the order has one of them.
                Empty: images of about the same aspect ratio share batches, in no stated size.
            subset: Samples that have rows; the others are as if they were not there.
            split: Likewise, by their prompt. None: all.
            optional_roles: Further files to read of the samples that have them.
            cache: Where what lies at a URL is kept on this machine. None: the default folder.

        Raises:
            StoreError: If there is no such revision or root, or a sample lacks one of the roles.
            UserError: If the buckets are none.
        """
        self.buckets = checked_buckets(buckets)
        self.subset = subset
        self.split = split
        self.root = local_root(root, cache)
        check_format(self.root)
        files = RevisionFiles(self.root)
        revision = files.load(files.resolve(revision_sha))
        self.revision_sha = revision.state.revision_sha
        self.number = revision.number
        self.skill_weights = dict(revision.state.skill_weights)
        self.replay_share = revision.state.replay_share
        self._sample_weights = revision.state.sample_weights
        self.roles = _checked_roles((*roles, *optional_roles))
        self._optional = frozenset(optional_roles)
        self.companions = tuple(revision.companions)
        """Names of the companion shards of the revision, whether they are read or not."""
        self._made_by = {shard.name: shard.made_by for shard in revision.companions.values()}
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._mirror = mirror_of(self.root)
        self._stated = {**revision.shards, **revision.companions} if self._mirror else {}
        self._touched_s = 0.0
        if self._mirror is not None:
            self._mirror.bring_indexes(self._stated.values())
        self._index_rows(revision)
        self._join_companions(revision)

    def _index_rows(self, revision: Revision) -> None:
        """Hold the trainable entries as arrays; objects are not kept."""
        rows = trained_rows(revision, self.subset, self.split, self._bucket_of)
        self._rows = rows
        self.strata = rows.strata
        self.stratum_of_row = rows.stratum
        self._shards = list(revision.shards)

    @property
    def keys(self) -> np.ndarray:
        """Return the key of each row, text [rows]; they are kept as bytes, in a quarter of the memory."""
        return np.char.decode(self._rows.keys, "utf-8") if len(self) else np.empty(0, "U1")

    def _bucket_of(self, width_px: int, height_px: int) -> int:
        """Return what all images of a batch have in common with one of this size."""
        if self.buckets:
            return nearest_bucket(width_px, height_px, self.buckets)
        return aspect_bucket(width_px, height_px)

    def _join_companions(self, revision: Revision) -> None:
        """Find every further role of every row: in the sample's own shard, or in the newest companion that has it."""
        self._joined: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        further = [role for role in self.roles if role != IMAGE_ROLE]
        if not further:
            return
        companions = list(revision.companions.values())
        first = len(self._shards)
        self._shards = self._shards + [companion.name for companion in companions]
        keys = self._rows.keys
        for role in further:
            shard_of_row = np.where(self._rows.having(role), _OWN, _NOWHERE).astype(np.int32)
            record_of_row = np.zeros(len(keys), np.int64)
            for number, companion in enumerate(companions, first):
                if role in companion.roles:
                    rows, records = _joined_rows(self._shard(number).records, role, keys)
                    shard_of_row[rows], record_of_row[rows] = number, records
            self._joined[role] = (shard_of_row, record_of_row)
            missing = np.flatnonzero(shard_of_row == _NOWHERE)
            if missing.size and role not in self._optional:
                raise MissingRoleError(
                    f"The sample '{keys[missing[0]].decode()}' has no file of the role '{role}', nor have"
                    f" {missing.size - 1} more of the {len(keys)} samples of revision {self.number}. Every sample that"
                    " is trained on must have each role that is asked for. Publish the files with"
                    f" `DatasetStore.publish_companion`, or leave '{role}' out of `roles`.",
                    role,
                    missing.size,
                    len(keys),
                )

    def __len__(self) -> int:
        return len(self.stratum_of_row)

    def order(self, seed: int, global_batch_size: int) -> KeyedOrder:
        """Return the endless order of this revision."""
        return KeyedOrder(
            self.revision_sha,
            seed,
            global_batch_size,
            self.strata,
            self.stratum_of_row,
            self.skill_weights,
            self.replay_share,
            self.weight_of_row,
        )

    @property
    def weight_of_row(self) -> np.ndarray | None:
        """Return the draw weight of each row relative to others of its skill, float [rows]; None: all alike."""
        if not self._sample_weights:
            return None
        return np.array([self._sample_weights.get(key, 1.0) for key in self.keys.tolist()])

    def makers(self, role: str) -> dict[str, int]:
        """Count the rows by who made their file of a role: a fingerprint; empty where nobody said it.

        Args:
            role: One of `roles` beside `image`.
        """
        shards, counts = np.unique(self._joined[role][0], return_counts=True)
        found: dict[str, int] = {}
        for shard, count in zip(shards.tolist(), counts.tolist(), strict=True):
            maker = "" if shard < 0 else self._made_by[self._shards[shard]]
            found[maker] = found.get(maker, 0) + count
        return found

    def having(self, role: str) -> np.ndarray:
        """Say of each row whether it has a file of a role.

        Args:
            role: One of `roles` beside `image`.

        Returns:
            Bool[Array, "rows"].
        """
        return np.asarray(self._joined[role][0] != _NOWHERE)

    def skill(self, row: int) -> str:
        """Name the skill of a row's prompt."""
        return self.strata[self.stratum_of_row[row]].skill

    def image_digest(self, row: int) -> str:
        """Name the bytes of a row's image, without reading them.

        Args:
            row: 0 to len - 1.
        """
        members = self._members(row)
        return next(bytes(sha256).hex() for _, name, _, _, sha256 in members if _role_of(name) == IMAGE_ROLE)

    def image_px(self, row: int) -> tuple[int, int]:
        """Return height and width of a row's image as it is stored."""
        height_px, width_px = self._rows.image_px[row].tolist()
        return height_px, width_px

    def bucket(self, row: int) -> BucketSize | None:
        """Return the size that the image of a row is trained in; None where there are no buckets."""
        return self.buckets[self.strata[self.stratum_of_row[row]].bucket] if self.buckets else None

    def empty_buckets(self) -> list[BucketSize]:
        """List the buckets that no image belongs to."""
        filled = {stratum.bucket for stratum in self.strata}
        return [size for number, size in enumerate(self.buckets) if number not in filled]

    def raw(self, row: int, verify: bool = False, with_image: bool = True) -> dict[str, str | bytes]:
        """Read one sample as bytes.

        Args:
            row: 0 to len - 1.
            verify: Compare every member with its sha256 (costs about four times the reading).
            with_image: False leaves the role `image` out.

        Returns:
            `__key__`, and the bytes of each member by extension: `json`, `txt`, one of `png`, `jpg`, `webp` for the
            role `image`, and such as `mask.png` for each further role.

        Raises:
            StoreError: If the files no longer hold what the revision says.
        """
        key = self.key(row)
        sample: dict[str, str | bytes] = {"__key__": key}
        number, members = int(self._rows.shard[row]), self._members(row)
        if len(members) > MEMBERS_OF_AN_IMAGE or self.roles != (IMAGE_ROLE,):
            members = [member for member in members if self._is_read(row, member[1].decode())]
        if not with_image:
            members = [member for member in members if _role_of(member[1]) != IMAGE_ROLE]
        self._read(sample, number, members, verify)
        for shard_of_row, record_of_row in self._joined.values():
            if (companion := int(shard_of_row[row])) >= 0:
                self._read(sample, companion, [self._shard(companion).records[record_of_row[row]].tolist()], verify)
        roles = len(self.roles) - (not with_image and IMAGE_ROLE in self.roles)
        lacking = sum(bool(shards[row] == _NOWHERE) for shards, _ in self._joined.values())
        if len(sample) != 3 + roles - lacking:  # `__key__`, `json`, `txt` and one file for each role that it has
            raise self._damaged(number, key)
        return sample

    def key(self, row: int) -> str:
        """Return the key of one row, without making text of the others."""
        return bytes(self._rows.keys[row]).decode()

    def _members(self, row: int) -> list[tuple[Any, ...]]:
        """Return the records of a row's files in its own shard: key, name, offset, size, sha256."""
        shard, ordinal = self._shard(int(self._rows.shard[row])), int(self._rows.ordinal[row])
        if not 0 <= ordinal < len(shard.starts) - 1:  # an index of another shard
            raise self._damaged(int(self._rows.shard[row]), self.key(row))
        records: list[tuple[Any, ...]] = shard.records[shard.starts[ordinal] : shard.starts[ordinal + 1]].tolist()
        return records

    def _is_read(self, row: int, name: str) -> bool:
        """Say whether a member in the shard of the sample itself is asked for."""
        role = split_member(name)[0]
        if role in self._joined:
            return bool(self._joined[role][0][row] == _OWN)
        return not role or role in self.roles

    def _read(self, sample: dict[str, Any], number: int, members: Sequence[tuple[Any, ...]], verify: bool) -> None:
        """Read members of one shard, and nothing else, into a sample."""
        shard, key = self._shard(number), sample["__key__"]
        fetched: list[bytes] | None = None
        if shard.descriptor < 0 and self._mirror is not None and self._mirror.by_sample:
            fetched = self._fetched(number, key, members)
        elif shard.descriptor < 0:
            shard = self._with_tar(number)
        for place, (member_key, extension, offset, size, sha256) in enumerate(members):
            if offset + size > shard.tar_bytes:  # before as much is read as a damaged index claims
                raise self._damaged(number, key)
            data = os.pread(shard.descriptor, size, offset) if fetched is None else fetched[place]
            if len(data) != size or member_key.decode() != key:
                raise self._damaged(number, key)
            if verify and hashlib.sha256(data).digest() != bytes(sha256):
                raise self._damaged(number, key)
            sample[extension.decode()] = data

    def _damaged(self, number: int, key: str) -> StoreError:
        path = self.root / "shards" / f"{self._shards[number]}.tar"
        return StoreError(f"The sample '{key}' in '{path}' is damaged. Restore the shard from a copy.")

    def _remedy(self) -> str:
        if self.revision_sha in collected_revisions(self.root):
            return "`evolvedirector data collect` deleted the files of this revision. Read a newer one (`data show`)."
        return "Restore it from a copy."

    def _with_tar(self, number: int) -> _OpenShard:
        """Open the tar of a shard that lies at a URL, whose index is open."""
        assert self._mirror is not None
        descriptor = self._mirror.open_tar(self._stated[self._shards[number]])
        self._open[number] = opened = self._open[number]._replace(descriptor=descriptor)
        return opened

    def _fetched(self, number: int, key: str, members: Sequence[tuple[Any, ...]]) -> list[bytes]:
        """Read members of a shard that stays where it is, at a URL."""
        assert self._mirror is not None
        shard = self._stated[self._shards[number]]
        places = [(offset, size, bytes(sha256)) for _, _, offset, size, sha256 in members]
        if any(offset + size > shard.tar_bytes for offset, size, _ in places):
            raise self._damaged(number, key)
        return self._mirror.read_members(shard, places) if places else []

    def _tell_use(self) -> None:
        """Note from time to time which tars are in use, and let go of those that others made room with."""
        if time.monotonic() - self._touched_s < _TOUCH_EVERY_S:
            return
        self._touched_s = time.monotonic()
        for number, shard in list(self._open.items()):
            if shard.descriptor >= 0 and not touch(shard.descriptor):
                os.close(shard.descriptor)
                self._open[number] = shard._replace(descriptor=_NOT_OPEN)

    def close(self) -> None:
        """Close all shards; the next read opens what it needs again."""
        while self._open:
            _close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        roles = tuple(role for role in self.roles if role not in self._optional)
        optional = tuple(role for role in self.roles if role in self._optional)
        state = {"root": str(self.root), "revision_sha": self.revision_sha, "roles": roles, "optional_roles": optional}
        return {**state, "buckets": self.buckets, "subset": self.subset, "split": self.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def _shard(self, number: int) -> _OpenShard:
        """Open a shard and its index, or take them from the most recently used ones."""
        if self._mirror is not None:
            self._tell_use()
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path = self.root / "shards" / f"{self._shards[number]}.tar"
        if self._mirror is not None:
            records, tar_bytes = open_index(path.with_suffix(".index"))
            if tar_bytes != self._stated[self._shards[number]].tar_bytes:
                raise StoreError(f"The index of '{path}' is of another tar. Delete it: it is fetched again.")
            return self._kept_open(number, _OpenShard(_NOT_OPEN, records, sample_starts(records), tar_bytes))
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"The shard '{path}' cannot be read: {error}. {self._remedy()}") from error
        try:
            records, tar_bytes = open_index(path.with_suffix(".index"))
        except StoreError:
            os.close(descriptor)
            raise
        if os.fstat(descriptor).st_size != tar_bytes:
            os.close(descriptor)
            raise StoreError(f"The shard '{path}' is not {tar_bytes} bytes long. Restore it from a copy.")
        opened = _OpenShard(descriptor, records, sample_starts(records), tar_bytes)
        return self._kept_open(number, opened)

    def _kept_open(self, number: int, opened: _OpenShard) -> _OpenShard:
        self._open[number] = opened
        if len(self._open) > _MAX_OPEN_SHARDS:
            _close(self._open.popitem(last=False)[1])
        return opened


def _checked_roles(roles: Sequence[str]) -> tuple[str, ...]:
    """Refuse roles that no sample can have."""
    if not roles or len(set(roles)) < len(roles):
        raise StoreError(f"The roles {list(roles)} cannot be read. Each is named once, at least one. Write ['image'].")
    for role in roles:
        if role != IMAGE_ROLE:
            try:
                check_role(role)
            except ValueError as error:
                raise StoreError(str(error)) from error
    return tuple(roles)


def _close(shard: _OpenShard) -> None:
    if shard.descriptor >= 0:
        os.close(shard.descriptor)


def _role_of(name: bytes) -> str:
    return split_member(name.decode())[0]


def _joined_rows(records: np.ndarray, role: str, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows that have a role in a companion.

    Args:
        records: The index of the companion, sorted by key.
        role: Which one.
        keys: Of every row, as bytes.

    Returns:
        Rows, and the number of the record of each.
    """
    having = np.flatnonzero(np.char.startswith(records["extension"], f"{role}.".encode()))
    names = records["key"][having]
    if not len(names):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    places = np.minimum(np.searchsorted(names, keys), len(names) - 1)
    rows = np.flatnonzero(names[places] == keys)
    return rows, having[places[rows]]
