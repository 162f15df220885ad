"""Compaction: what lies in many small shards is written into few large ones, as a new revision with the same content.

Every round adds a shard, so a root of many rounds is read from many small files, and samples that were replaced since
lie between the others. Samples and derived files are copied byte for byte, each compared with its sha256; prompts,
keys, states, weights and the order of rows stay. The old shards stay for the revisions that name them: see `collect`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from evolvedirector.records import Sample, digest
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.store.delta import Place, Revision, companions_to_json, sample_to_json, shard_to_json
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import split_member
from evolvedirector.store.shards import MAX_SHARD_SAMPLES, Shard, open_index, sample_starts, write_shard

_TRAINED = ("live", "mastered")


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """What would be written anew.

    Args:
        shards: Names of the shards of samples that give their samples to new ones.
        samples: That move.
        companions: Names of the companions that give their files to new ones.
        new_shards: How many take the place of `shards` and `companions`.
        bytes_before: Of the old tars.
        samples_per_shard: Of each new one.
    """

    shards: tuple[str, ...]
    samples: tuple[Sample, ...] = field(repr=False)
    companions: tuple[str, ...]
    new_shards: int
    bytes_before: int
    samples_per_shard: int

    @property
    def is_empty(self) -> bool:
        """Whether the revision lies in as few shards as it can."""
        return not self.shards and not self.companions


def plan_compaction(root: Path, revision: Revision, samples_per_shard: int = MAX_SHARD_SAMPLES) -> CompactionPlan:
    """Say which shards of a revision are worth being written anew.

    Shards of samples that are less than half full of samples which the revision still has go together, where that
    makes fewer of them or leaves replaced samples behind; companions, where one part made more of them than it takes.

    Args:
        root: The dataset root.
        revision: One of its revisions.
        samples_per_shard: Of a full shard.

    Raises:
        StoreError: `samples_per_shard` is no size of a shard, or the index of a companion cannot be read.
    """
    if not 1 <= samples_per_shard <= MAX_SHARD_SAMPLES:
        raise StoreError(
            f"samples_per_shard is {samples_per_shard}. Allowed: 1 to {MAX_SHARD_SAMPLES}. Write {MAX_SHARD_SAMPLES}."
        )
    held = revision.held
    thin = [name for name in revision.shards if 2 * held[name] < samples_per_shard]
    moved = sum(held[name] for name in thin)
    new_shards = -(-moved // samples_per_shard)
    if new_shards == len(thin) and all(held[name] == revision.shards[name].samples for name in thin):
        thin, new_shards = [], 0
    chosen = set(thin)
    samples = tuple(sample for sample in _by_use(revision) if revision.places[sample.key].shard in chosen)
    companions: list[str] = []
    for _, shards in _by_maker(revision):
        keys = len({key for key, _, _, _ in _derived(root, revision, [shard.name for shard in shards])})
        if len(shards) > (needed := -(-keys // samples_per_shard)):
            companions += [shard.name for shard in shards]
            new_shards += needed
    old = [*(revision.shards[name] for name in thin), *(revision.companions[name] for name in companions)]
    size = sum(shard.tar_bytes for shard in old)
    return CompactionPlan(tuple(thin), samples, tuple(companions), new_shards, size, samples_per_shard)


def compact(store: DatasetStore, parent: Revision, plan: CompactionPlan) -> str:
    """Carry out a plan: write the new shards, publish them as the next revision, and return its sha.

    Args:
        store: An open root.
        parent: The revision that the plan is of.
        plan: Not an empty one.

    Raises:
        StoreError: A sample does not have the bytes that its index says; nothing is published then.
        DiskFullError: The disk is full; nothing is published then.
    """

    def pack(number: int) -> dict[str, Any]:
        old, places = _OldShards(store.root, parent), dict[str, Place]()
        shards = []
        for part in _parts(plan.samples, plan.samples_per_shard):
            shards.append(write_shard(store.root / "shards", number, (old.members(sample) for sample in part)))
            for ordinal, sample in enumerate(part):
                places[sample.key] = replace(parent.places[sample.key], shard=shards[-1].name, ordinal=ordinal)
        moved = {sample.prompt.id for sample in plan.samples}
        states = {i: entry.state for i, entry in parent.state.entries.items() if i in moved and entry.state != "live"}
        return {
            "samples": [sample_to_json(sample, places[sample.key]) for sample in plan.samples],
            "shards": [shard_to_json(shard) for shard in shards],
            "states": states,  # a sample that enters makes its prompt live
            **_packed_companions(store.root, parent, plan, number),
        }

    name = digest("compaction", *plan.shards, *plan.companions, plan.samples_per_shard, length=12)
    return store.publish_compaction(parent.state.revision_sha, name, pack)


def _by_use(revision: Revision) -> Iterator[Sample]:
    """Yield all samples in the order of entry, those that are trained on first."""
    for trained in (True, False):
        for entry in revision.state.entries.values():
            if (entry.state in _TRAINED) == trained:
                yield from entry.samples


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


class _OldShards:
    """The shards that samples of a revision lie in now; each index is opened once."""

    def __init__(self, root: Path, revision: Revision) -> None:
        self._root, self._places = root, revision.places
        self._opened: dict[str, tuple[Any, Sequence[int]]] = {}

    def members(self, sample: Sample) -> dict[str, Any]:
        """Read the members of a sample."""
        place = self._places[sample.key]
        path = self._root / "shards" / f"{place.shard}.tar"
        if place.shard not in self._opened:
            records, _ = open_index(path.with_suffix(".index"))
            self._opened[place.shard] = records, sample_starts(records)
        records, starts = self._opened[place.shard]
        rows = records[starts[place.ordinal] : starts[place.ordinal + 1]].tolist()
        if any(row[0].decode() != sample.key for row in rows):
            raise _damaged(path, sample.key)
        return {"__key__": sample.key, **{row[1].decode(): _content(path, sample.key, row) for row in rows}}


def _content(path: Path, key: str, record: Any) -> bytes:
    """Read one member of a tar, and compare it with its record."""
    _, _, offset, size, sha256 = record
    with open(path, "rb") as file:
        data = os.pread(file.fileno(), size, offset)
    if hashlib.sha256(data).digest() != bytes(sha256):
        raise _damaged(path, key)
    return data


def _damaged(path: Path, key: str) -> StoreError:
    return StoreError(
        f"The sample '{key}' in '{path}' is damaged. Only what is whole is written anew. Run `evolvedirector data"
        " verify ROOT --repair`, or restore the shard from a copy."
    )


# ---- companions


def _by_maker(revision: Revision) -> list[tuple[str, list[Shard]]]:
    shards = sorted(revision.companions.values(), key=lambda shard: shard.made_by)
    return [(made_by, list(group)) for made_by, group in groupby(shards, key=lambda shard: shard.made_by)]


def _derived(root: Path, revision: Revision, names: Sequence[str]) -> Iterator[tuple[str, str, Path, Any]]:
    """Yield key, name, tar and record of every derived file in these companions that counts.

    Of two companions with the same role of a sample the newer counts; a sample's own files count before all.
    """
    own = {s.key: s.files.keys() for entry in revision.state.entries.values() for s in entry.samples}
    counting: dict[tuple[str, str], tuple[str, str, Path, Any]] = {}
    for shard in revision.companions.values():
        path = root / "shards" / f"{shard.name}.tar"
        for record in open_index(path.with_suffix(".index"))[0].tolist():
            key, name = record[0].decode(), record[1].decode()
            role = split_member(name)[0]
            if key in own and role not in own[key]:
                counting[key, role] = (key, name, path, record)
    chosen = set(names)
    return (found for found in counting.values() if found[2].stem in chosen)


def _packed_companions(root: Path, revision: Revision, plan: CompactionPlan, number: int) -> dict[str, Any]:
    if not plan.companions:
        return {}
    written: list[Shard] = []
    for made_by, shards in _by_maker(revision):
        names = [shard.name for shard in shards if shard.name in plan.companions]
        files: dict[str, list[tuple[str, Path, Any]]] = {}
        for key, name, path, record in _derived(root, revision, names):
            files.setdefault(key, []).append((name, path, record))
        for part in _parts(list(files.items()), plan.samples_per_shard):
            members = (
                {"__key__": key, **{name: _content(path, key, record) for name, path, record in of_key}}
                for key, of_key in part
            )
            roles = {split_member(name)[0] for _, of_key in part for name, _, _ in of_key}
            shard = write_shard(root / "shards", number, members, companion=True)
            written.append(replace(shard, roles=tuple(sorted(roles)), made_by=made_by))
    return {"dropped_companions": list(plan.companions), **companions_to_json(written)}
