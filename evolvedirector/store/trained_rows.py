"""What a revision trains on, as arrays: one row for each sample, in the order in which prompts entered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from evolvedirector.records import PromptEntry
from evolvedirector.records.layered import Layered
from evolvedirector.records.split import Split
from evolvedirector.records.subset import Subset
from evolvedirector.store.columnar import ColumnarEntries, SnapshotTable
from evolvedirector.store.delta import Revision
from evolvedirector.store.order import Stratum

TRAINED = ("live", "mastered")


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """Samples that are trained on.

    Args:
        keys: S[rows].
        shard: Number among the shards of the revision, int32 [rows].
        ordinal: Place in the shard, int32 [rows].
        image_px: Height and width, int32 [rows, 2].
        strata: All there are, in the order in which they come up.
        stratum: Of each row, int32 [rows].
        role_sets: Sets of further roles that samples have in their own shard.
        roles: Number of the set of each row, int32 [rows].
    """

    keys: np.ndarray
    shard: np.ndarray
    ordinal: np.ndarray
    image_px: np.ndarray
    strata: tuple[Stratum, ...]
    stratum: np.ndarray
    role_sets: tuple[frozenset[str], ...]
    roles: np.ndarray

    def having(self, role: str) -> np.ndarray:
        """Say of each row whether the shard of the sample itself has a further role of it, bool [rows].

        Args:
            role: Any but `image`.
        """
        return np.array([role in roles for roles in self.role_sets], bool)[self.roles]


class _Part(NamedTuple):
    """Some of the rows: names that repeat are numbers."""

    position: np.ndarray
    """Of the prompt, int32 [rows]."""
    keys: np.ndarray
    shard: np.ndarray
    ordinal: np.ndarray
    width_px: np.ndarray
    height_px: np.ndarray
    skill: np.ndarray
    state: np.ndarray
    roles: np.ndarray


class _Names:
    """Numbers for names, in the order in which they come."""

    def __init__(self, shards: Mapping[str, object]) -> None:
        self.shards = {name: number for number, name in enumerate(shards)}
        self.skills: dict[str, int] = {}
        self.roles: dict[frozenset[str], int] = {}


def trained_rows(
    revision: Revision, subset: Subset, split: Split | None, bucket_of: Callable[[int, int], int]
) -> TrainedRows:
    """Return the samples of a revision that are trained on.

    Args:
        revision: All of it.
        subset: The others are left out.
        split: Likewise, by prompt. None: all.
        bucket_of: Bucket of an image by its width and height in px.
    """
    names = _Names(revision.shards)
    part = _in_order([part for part in _parts(revision, names, subset, split)])
    skills = list(names.skills)
    image_px = np.stack([part.height_px, part.width_px], 1)
    buckets, number = _buckets(image_px, bucket_of)
    number *= max(len(skills), 1)
    number += part.skill
    number *= len(TRAINED)
    number += part.state
    codes, first = np.unique(number, return_index=True)
    by_first = np.argsort(first)
    rank = np.empty(len(codes), np.int32)
    rank[by_first] = np.arange(len(codes), dtype=np.int32)
    strata = []
    for value in codes[by_first].tolist():
        rest, state = divmod(value, len(TRAINED))
        place, skill = divmod(rest, len(skills))
        strata.append(Stratum(buckets[place], skills[skill], TRAINED[state]))
    stratum = rank[np.searchsorted(codes, number)]
    roles = tuple(names.roles)
    return TrainedRows(part.keys, part.shard, part.ordinal, image_px, tuple(strata), stratum, roles, part.roles)


def _buckets(image_px: np.ndarray, bucket_of: Callable[[int, int], int]) -> tuple[list[int], np.ndarray]:
    """Return all buckets, and the number of that of each image, int64 [images]; there are few sizes."""
    size_of = image_px.view(np.int64).reshape(-1)
    sizes = np.unique(size_of)
    found = [bucket_of(width_px, height_px) for height_px, width_px in sizes.view(np.int32).reshape(-1, 2).tolist()]
    buckets, number = np.unique(np.array(found, np.int64), return_inverse=True)
    return buckets.tolist(), number.astype(np.int64)[np.searchsorted(sizes, size_of)]


def _parts(revision: Revision, names: _Names, subset: Subset, split: Split | None) -> Iterator[_Part]:
    entries = revision.state.entries
    changed: Mapping[str, PromptEntry] = {}
    added, first = entries, 0
    table: SnapshotTable | None = None
    if isinstance(entries, Layered) and isinstance(entries.base, ColumnarEntries):
        table, changed, added, first = entries.base.table, entries.changed, entries.added, len(entries.base)
        assert not entries.removed, "no prompt ever goes"
    elif isinstance(entries, ColumnarEntries):
        table, added = entries.table, {}
    positions = {key: table.rows_by_id.row_of(key) for key in changed} if table else {}
    if table is not None:
        yield _from_columns(table, names, [row for row in positions.values() if row is not None], subset, split)
    objects = sorted(((positions[key] or 0, entry) for key, entry in changed.items()), key=itemgetter(0))
    objects += [(first + number, entry) for number, entry in enumerate(added.values())]
    yield _from_objects(revision, names, objects, subset, split)


def _from_columns(
    table: SnapshotTable, names: _Names, changed: list[int], subset: Subset, split: Split | None
) -> _Part:
    """Take the samples of prompts that did not change since the columns were written."""
    arrays = table.arrays
    counts = np.diff(arrays["samples_end"], prepend=0)
    prompt_of = np.repeat(np.arange(table.prompts, dtype=np.int32), counts)
    taken = np.array([state in TRAINED for state in table.states], bool)[arrays["state"]]
    taken[changed] = False
    if split is not None:
        for row in np.flatnonzero(taken).tolist():
            taken[row] = split.takes(table.texts("text")[row])
    allowed = np.array([[subset.takes(skill, variant) for variant in table.variants] for skill in table.skills], bool)
    rows = np.flatnonzero(taken[prompt_of])
    if allowed.size and not allowed.all():
        rows = rows[allowed[arrays["skill"][prompt_of[rows]], arrays["variant"][rows]]]
    prompts = prompt_of[rows]
    shard_numbers = np.array([names.shards.get(name, -1) for name in table.shards] or [-1], np.int32)
    skill_numbers = np.array([names.skills.setdefault(name, len(names.skills)) for name in table.skills] or [0])
    state_numbers = np.array([TRAINED.index(state) if state in TRAINED else 0 for state in table.states] or [0])
    role_numbers = np.array([names.roles.setdefault(roles, len(names.roles)) for roles in table.roles] or [0])
    return _Part(
        prompts,
        table.texts("key").ascii_rows(rows),
        shard_numbers[arrays["shard"][rows]],
        arrays["ordinal"][rows],
        arrays["image_width_px"][rows],
        arrays["image_height_px"][rows],
        skill_numbers.astype(np.int32)[arrays["skill"][prompts]],
        state_numbers.astype(np.int32)[arrays["state"][prompts]],
        role_numbers.astype(np.int32)[arrays["roles"][rows]],
    )


def _from_objects(
    revision: Revision, names: _Names, entries: list[tuple[int, PromptEntry]], subset: Subset, split: Split | None
) -> _Part:
    keys: list[bytes] = []
    rows: list[tuple[int, ...]] = []
    for position, entry in entries:
        if entry.state not in TRAINED or (split is not None and not split.takes(entry.prompt.text)):
            continue
        for sample in entry.samples:
            if not subset.takes(entry.prompt.skill, sample.variant):
                continue
            place = revision.places[sample.key]
            keys.append(sample.key.encode("utf-8", "surrogatepass"))
            skill = names.skills.setdefault(entry.prompt.skill, len(names.skills))
            roles = names.roles.setdefault(place.roles, len(names.roles))
            numbers = (names.shards[place.shard], place.ordinal, place.width_px, place.height_px)
            rows.append((position, *numbers, skill, TRAINED.index(entry.state), roles))
    table = np.array(rows, np.int64).reshape(-1, 8)
    position, *columns = (table[:, number].astype(np.int32) for number in range(8))
    return _Part(position, np.array(keys, "S") if keys else np.empty(0, "S1"), *columns)


def _in_order(parts: list[_Part]) -> _Part:
    """Join parts; the samples of a prompt lie in one of them, in their order."""
    filled = [part for part in parts if len(part.keys)] or parts[:1]
    if len(filled) == 1:
        return filled[0]
    order = np.argsort(np.concatenate([part.position for part in filled]), kind="stable")
    return _Part(*(np.concatenate(columns)[order] for columns in zip(*filled, strict=True)))
