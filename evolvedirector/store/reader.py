"""Read one revision by row: no lock, no database, only immutable files."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from evolvedirector.store.dataset import check_format
from evolvedirector.store.errors import StoreError
from evolvedirector.store.order import KeyedOrder, Stratum, aspect_bucket
from evolvedirector.store.revision import Revision, RevisionFiles
from evolvedirector.store.shard_index import open_index
from evolvedirector.store.shards import MEMBERS_PER_SAMPLE

_MAX_OPEN_SHARDS = 256  # well under the usual limit of 1024 open files


class RevisionReader:
    """The samples that one revision trains on (live and mastered), as rows that can be read in any order.

    A copy in another process (forked or pickled) is safe: positions are given with every read, and a pickled reader
    opens the files again.
    """

    def __init__(self, root: str | Path, revision_sha: str) -> None:
        """Open a revision.

        Args:
            root: The dataset root.
            revision_sha: Which revision; at least 6 characters of it.

        Raises:
            StoreError: If there is no such revision or root.
        """
        self.root = Path(root)
        check_format(self.root)
        files = RevisionFiles(self.root)
        revision = files.load(files.resolve(revision_sha))
        self.revision_sha = revision.state.revision_sha
        self.number = revision.number
        self.skill_weights = dict(revision.state.skill_weights)
        self.replay_share = revision.state.replay_share
        self._index_rows(revision)
        self._open: OrderedDict[int, tuple[int, np.ndarray]] = OrderedDict()

    def _index_rows(self, revision: Revision) -> None:
        """Flatten the trainable entries into arrays; objects are not kept."""
        shards = list(revision.shards)
        numbers = {name: number for number, name in enumerate(shards)}
        strata: dict[Stratum, int] = {}
        rows: list[tuple[int, int, int]] = []
        keys: list[str] = []
        for entry in revision.state.entries.values():
            if entry.state not in ("live", "mastered") or entry.sample is None:
                continue
            place = revision.places[entry.sample.key]
            stratum = Stratum(aspect_bucket(place.width_px, place.height_px), entry.prompt.skill, entry.state)
            rows.append((numbers[place.shard], place.ordinal, strata.setdefault(stratum, len(strata))))
            keys.append(entry.sample.key)
        table = np.array(rows, np.int64).reshape(-1, 3)
        self.keys = np.array(keys, dtype="U")
        self.strata = tuple(strata)
        self.stratum_of_row = table[:, 2].astype(np.int32)
        self._shards = shards
        self._shard_of_row = table[:, 0].astype(np.int32)
        self._ordinal_of_row = table[:, 1].astype(np.int32)

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
        )

    def skill(self, row: int) -> str:
        """Name the skill of a row's prompt."""
        return self.strata[self.stratum_of_row[row]].skill

    def raw(self, row: int, verify: bool = False) -> dict[str, str | bytes]:
        """Read one sample as bytes.

        Args:
            row: 0 to len - 1.
            verify: Compare every member with its sha256 (costs about four times the reading).

        Returns:
            `__key__`, and the bytes of each member by extension: `json`, `txt`, and one of `png`, `jpg`, `webp`.

        Raises:
            StoreError: If the files no longer hold what the revision says.
        """
        descriptor, records = self._shard(int(self._shard_of_row[row]))
        start = int(self._ordinal_of_row[row]) * MEMBERS_PER_SAMPLE
        key = str(self.keys[row])
        sample: dict[str, str | bytes] = {"__key__": key}
        for record in records[start : start + MEMBERS_PER_SAMPLE].tolist():
            member_key, extension, offset, size, sha256 = record
            data = os.pread(descriptor, size, offset)
            if len(data) != size or member_key.decode() != key:
                raise self._damaged(row)
            if verify and hashlib.sha256(data).digest() != bytes(sha256):
                raise self._damaged(row)
            sample[extension.decode()] = data
        return sample

    def close(self) -> None:
        """Close all shards; the next read opens what it needs again."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def __getstate__(self) -> dict[str, str]:
        return {"root": str(self.root), "revision_sha": self.revision_sha}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()

    def _shard(self, number: int) -> tuple[int, np.ndarray]:
        """Open a shard and its index, or take them from the most recently used ones."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path = self.root / "shards" / f"{self._shards[number]}.tar"
        records, tar_bytes = open_index(path.with_suffix(".index"))
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"The shard '{path}' cannot be read: {error}. Restore it from a copy.") from error
        if os.fstat(descriptor).st_size != tar_bytes:
            os.close(descriptor)
            raise StoreError(f"The shard '{path}' is not {tar_bytes} bytes long. Restore it from a copy.")
        self._open[number] = (descriptor, records)
        if len(self._open) > _MAX_OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1][0])
        return descriptor, records

    def _damaged(self, row: int) -> StoreError:
        path = self.root / "shards" / f"{self._shards[int(self._shard_of_row[row])]}.tar"
        return StoreError(f"The sample '{self.keys[row]}' in '{path}' is damaged. Restore the shard from a copy.")
