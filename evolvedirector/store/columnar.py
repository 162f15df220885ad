"""A revision in columns: written as arrays, read as the mappings that everybody else sees.

A million prompts as objects take gigabytes and ten seconds; as columns they take what their texts take, and processes
that map the same file share it. Entries are made when they are asked for, and forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from evolvedirector.records import DatasetState, FileRef, Origin, Prompt, PromptEntry, PromptState, Sample
from evolvedirector.records.layered import OrderedPairs
from evolvedirector.store.codec import checked, file_to_json
from evolvedirector.store.columns import Columns, KeyIndex, Strings, StringsBuilder, index_arrays, index_of, strings_of
from evolvedirector.store.delta import (
    FORMATS,
    Place,
    Revision,
    checked_shard,
    companions_to_json,
    shard_to_json,
    weights_to_json,
)
from evolvedirector.store.errors import StoreError
from evolvedirector.store.shards import MAX_KEY_BYTES, Shard

MAX_OBJECTS = 1 << 16
"""Prompts of a revision that is held as objects: they are quicker to go through, and few enough to be small."""
_BLOCK = 4096
_TABLES = ("origins", "states", "skills", "teachers", "variants", "roles")
_NO_SIZE = -1
_Column = TypeVar("_Column")
_PROMPT_TEXTS = ("id", "text", "parent", "lineage")
_SAMPLE_TEXTS = ("key", "image", "files")
_PROMPT_NUMBERS = ("has_parent", "origin", "state", "skill", "width_px", "height_px", "samples_end")
_SAMPLE_NUMBERS = ("teacher", "variant", "shard", "roles", "ordinal", "image_width_px", "image_height_px")


def columns_of(sha: str, revision: Revision) -> Columns:
    """Write a revision as columns.

    Args:
        sha: Of the revision.
        revision: All of it.

    Raises:
        StoreError: A number of it has no room in a column, which nothing that this project writes has.
    """
    builder = _Builder(list(revision.shards))
    for entry in revision.state.entries.values():
        builder.add(entry, revision.places)
    state = revision.state
    about = {
        "format": FORMATS[-1],
        "sha": sha,
        "number": revision.number,
        "parent": revision.parent_sha,
        "round_id": revision.round_id,
        "skill_weights": dict(state.skill_weights),
        "replay_share": state.replay_share,
        "shards": [shard_to_json(shard) for shard in revision.shards.values()],
        **companions_to_json(list(revision.companions.values())),
        **weights_to_json(state.sample_weights or None),
        **{name: list(table) for name, table in builder.tables.items()},
    }
    try:
        arrays = builder.arrays()
    except OverflowError as error:
        raise StoreError(
            f"The revision {sha[:12]} holds a number that no picture has ({error}). Restore the root from a copy."
        ) from error
    arrays |= index_arrays("id", (prompt_id for prompt_id in state.entries))
    return Columns(about, arrays | index_arrays("key", builder.keys()))


class _Builder:
    """The columns of a revision, entry by entry."""

    def __init__(self, shards: list[str]) -> None:
        self.tables: dict[str, dict[str, int]] = {name: {} for name in _TABLES}
        self._shards = {name: number for number, name in enumerate(shards)}
        self._texts = {name: StringsBuilder() for name in (*_PROMPT_TEXTS, *_SAMPLE_TEXTS)}
        self._numbers: dict[str, list[int]] = {name: [] for name in (*_PROMPT_NUMBERS, *_SAMPLE_NUMBERS)}
        self._samples = 0

    def add(self, entry: PromptEntry, places: Mapping[str, Place]) -> None:
        prompt = entry.prompt
        for sample in entry.samples:
            self._add_sample(sample, places[sample.key])
        texts = (prompt.id, prompt.text, prompt.parent_id or "", prompt.lineage_id)
        for name, text in zip(_PROMPT_TEXTS, texts, strict=True):
            self._texts[name].add(text)
        sizes = (_NO_SIZE if size is None else size for size in (prompt.width_px, prompt.height_px))
        codes = (
            self._code("origins", prompt.origin),
            self._code("states", entry.state),
            self._code("skills", prompt.skill),
        )
        numbers = (prompt.parent_id is not None, *codes, *sizes, self._samples)
        for name, number in zip(_PROMPT_NUMBERS, numbers, strict=True):
            self._numbers[name].append(int(number))

    def _add_sample(self, sample: Sample, place: Place) -> None:
        self._samples += 1
        files = {role: file_to_json(file) for role, file in sample.files.items()}
        texts = (sample.key, sample.image_sha256, json.dumps(files) if files else "")
        for name, text in zip(_SAMPLE_TEXTS, texts, strict=True):
            self._texts[name].add(text)
        numbers = (
            self._code("teachers", sample.teacher),
            self._code("variants", sample.variant),
            self._shards[place.shard],
            self._code("roles", " ".join(sorted(sample.files))),
            place.ordinal,
            place.width_px,
            place.height_px,
        )
        for name, number in zip(_SAMPLE_NUMBERS, numbers, strict=True):
            self._numbers[name].append(number)

    def _code(self, table: str, word: str) -> int:
        return self.tables[table].setdefault(word, len(self.tables[table]))

    def keys(self) -> Iterator[str]:
        arrays = self._texts["key"].arrays("key")
        return iter_texts(strings_of(arrays, "key", self._samples))

    def arrays(self) -> dict[str, np.ndarray]:
        texts: dict[str, np.ndarray] = {}
        for name, builder in self._texts.items():
            texts |= builder.arrays(name)
        return texts | {name: np.array(values, np.int32) for name, values in self._numbers.items()}


def revision_of(columns: Columns) -> Revision:
    """Return the revision that columns hold: as objects where it is small, else as views of the columns.

    Args:
        columns: As `columns_of` wrote them.

    Raises:
        ValueError: They are no such columns.
        KeyError: One is missing.
        TypeError: A table holds something else.
        AttributeError: Likewise.
        StoreError: They name what no revision may name.
    """
    about = columns.about
    _check_about(about)
    shards = {fields["name"]: checked_shard(Shard(**fields)) for fields in about["shards"]}
    companions = {
        fields["name"]: checked_shard(Shard(**{**fields, "roles": tuple(fields["roles"])}))
        for fields in about.get("companions", ())
    }
    table = SnapshotTable(columns, list(shards))
    entries: Mapping[str, PromptEntry] = ColumnarEntries(table)
    places: Mapping[str, Place] = ColumnarPlaces(table)
    if len(entries) <= MAX_OBJECTS:
        entries, places = dict(entries.items()), dict(places.items())
    state = DatasetState(
        revision_sha=about["sha"],
        entries=entries,
        skill_weights=about["skill_weights"],
        replay_share=about["replay_share"],
        sample_weights=about.get("sample_weights", {}),
    )
    counts = np.bincount(columns.arrays["shard"], minlength=len(shards)).tolist()
    held = {name: count for name, count in zip(shards, counts, strict=True) if count}
    return Revision(about["number"], about["parent"], about["round_id"], state, places, shards, companions, held)


def _check_about(about: Mapping[str, Any]) -> None:
    """Refuse what a revision says of itself where it is of another type; the JSON of a file may be any."""
    weights = [*about["skill_weights"].values(), *about.get("sample_weights", {}).values(), about["replay_share"]]
    texts = [about["sha"], about["round_id"], "" if about["parent"] is None else about["parent"]]
    if type(about["number"]) is not int or about["number"] < 1:
        raise ValueError("a revision without a number")
    if any(type(weight) not in (int, float) for weight in weights) or any(type(text) is not str for text in texts):
        raise ValueError("weights that are no numbers, or names that are no texts")


class SnapshotTable:
    """The columns of one revision by name, checked once."""

    def __init__(self, columns: Columns, shards: list[str]) -> None:
        """Take the columns.

        Args:
            columns: Of a revision.
            shards: Names of its shards, in the order of their numbers.

        Raises:
            ValueError: They do not fit together.
        """
        arrays = columns.arrays
        self.prompts = len(arrays["samples_end"])
        self.samples = len(arrays["shard"])
        self.arrays = arrays
        self.shards = shards
        self.origins: list[Origin] = [checked(word, Origin) for word in columns.about["origins"]]
        self.states: list[PromptState] = [checked(word, PromptState) for word in columns.about["states"]]
        self.skills, self.teachers, self.variants = (
            [str(word) for word in columns.about[name]] for name in ("skills", "teachers", "variants")
        )
        self.roles = [frozenset(str(words).split()) for words in columns.about["roles"]]
        """Sets of further roles that samples have in their own shard."""
        self._texts: dict[str, Strings] = {}
        self._check()

    def texts(self, name: str) -> Strings:
        """Return a column of texts; each is checked when it is first asked for, as most readers need one or two.

        Args:
            name: Of the column.

        Raises:
            StoreError: It is no such column.
        """
        if name not in self._texts:
            count = self.samples if name in _SAMPLE_TEXTS else self.prompts
            most = MAX_KEY_BYTES if name == "key" else None  # readers hold all keys in the width of the longest
            self._texts[name] = _believed(lambda: strings_of(self.arrays, name, count, most))
        return self._texts[name]

    @cached_property
    def rows_by_id(self) -> KeyIndex:
        """Find the row of a prompt by its id."""
        return _believed(lambda: index_of(self.arrays, "id", self.texts("id")))

    @cached_property
    def rows_by_key(self) -> KeyIndex:
        """Find the number of a sample by its key."""
        return _believed(lambda: index_of(self.arrays, "key", self.texts("key")))

    def _check(self) -> None:
        tables: dict[str, Sequence[object]] = {
            "origin": self.origins, "state": self.states, "skill": self.skills, "teacher": self.teachers,
            "variant": self.variants, "shard": self.shards, "roles": self.roles,
        }  # fmt: skip
        for names, count in ((_PROMPT_NUMBERS, self.prompts), (_SAMPLE_NUMBERS, self.samples)):
            for name in names:
                values = self.arrays[name]
                most = len(tables[name]) - 1 if name in tables else np.iinfo(np.int32).max
                if (
                    values.dtype != np.int32
                    or len(values) != count
                    or (count and not _NO_SIZE <= values.min() <= values.max() <= most)
                ):
                    raise ValueError(f"the column '{name}' does not fit")
                if name in tables and count and values.min() < 0:
                    raise ValueError(f"the column '{name}' names what is not there")
        ends = self.arrays["samples_end"]
        last = int(ends[-1]) if self.prompts else 0
        if (ends[1:] < ends[:-1]).any() or (self.prompts and ends[0] < 0) or last != self.samples:
            raise ValueError("samples do not belong to one prompt each")

    def entries(self, start: int, stop: int) -> list[PromptEntry]:
        """Return neighbouring entries as objects.

        Args:
            start: Row of the first one.
            stop: Row behind the last one.

        Raises:
            StoreError: They hold what no text and no file can be.
        """
        return _believed(lambda: self._entries(start, stop))

    def _entries(self, start: int, stop: int) -> list[PromptEntry]:
        texts = zip(*(self.texts(name).block(start, stop) for name in _PROMPT_TEXTS), strict=True)
        numbers = zip(*(self.arrays[name][start:stop].tolist() for name in _PROMPT_NUMBERS), strict=True)
        first = int(self.arrays["samples_end"][start - 1]) if start else 0
        drawn = self._samples(first, int(self.arrays["samples_end"][stop - 1]) if stop > start else first)
        made, begin = [], first
        for (own_id, text, parent, lineage), row in zip(texts, numbers, strict=True):
            has_parent, origin, state, skill, width_px, height_px, end = row
            prompt = Prompt(
                own_id, text, self.origins[origin], self.skills[skill], parent if has_parent else None, lineage,
                None if width_px == _NO_SIZE else width_px, None if height_px == _NO_SIZE else height_px,
            )  # fmt: skip
            samples = [Sample(key, prompt, *rest) for key, *rest in drawn[begin - first : end - first]]
            made.append(PromptEntry(prompt, self.states[state], samples[0] if samples else None, tuple(samples[1:])))
            begin = end
        return made

    def _samples(self, start: int, stop: int) -> list[tuple[Any, ...]]:
        """Return the fields of neighbouring samples, without their prompts."""
        teachers, variants = (self.arrays[name][start:stop].tolist() for name in ("teacher", "variant"))
        keys, images, files = (self.texts(name).block(start, stop) for name in _SAMPLE_TEXTS)
        return [
            (key, image, self.teachers[teacher], _files_of(about), self.variants[variant])
            for key, image, teacher, about, variant in zip(keys, images, teachers, files, variants, strict=True)
        ]

    def places(self, start: int, stop: int) -> list[Place]:
        """Return where neighbouring samples lie.

        Args:
            start: Number of the first one.
            stop: Number behind the last one.
        """
        names = ("shard", "ordinal", "image_width_px", "image_height_px", "roles")
        numbers = zip(*(self.arrays[name][start:stop].tolist() for name in names), strict=True)
        return [
            Place(self.shards[shard], ordinal, width_px, height_px, self.roles[roles])
            for shard, ordinal, width_px, height_px, roles in numbers
        ]


class ColumnarEntries(OrderedPairs[PromptEntry]):
    """The entries of a revision by prompt id, in the order in which they entered.

    Whoever goes through all of them a second time, as a policy does, will do so again: from then on they are kept.
    """

    def __init__(self, table: SnapshotTable) -> None:
        """Look at the columns of a revision.

        Args:
            table: The columns.
        """
        self.table = table
        self._kept: list[PromptEntry] | None = None
        self._begun = 0

    def __len__(self) -> int:
        return self.table.prompts

    def __iter__(self) -> Iterator[str]:
        return iter_texts(self.table.texts("id"))

    def __contains__(self, key: object) -> bool:
        return self.table.rows_by_id.row_of(key) is not None

    def __getitem__(self, key: str) -> PromptEntry:
        row = self.table.rows_by_id.row_of(key)
        if row is None:
            raise KeyError(key)
        kept = self._kept  # another thread may have kept them meanwhile
        return self.table.entries(row, row + 1)[0] if kept is None else kept[row]

    def pairs(self) -> Iterator[tuple[str, PromptEntry]]:
        """Yield ids and entries in the order in which they entered."""
        if (held := self._kept) is not None:
            yield from ((entry.prompt.id, entry) for entry in held)
            return
        self._begun += 1
        kept: list[PromptEntry] | None = [] if self._begun > 1 else None
        for start in range(0, len(self), _BLOCK):
            block = self.table.entries(start, min(start + _BLOCK, len(self)))
            if kept is not None:
                kept += block
            yield from ((entry.prompt.id, entry) for entry in block)
        if kept is not None:  # the first pass may end after one that kept them
            self._kept = kept


class ColumnarPlaces(OrderedPairs[Place]):
    """Where the samples of a revision lie, by key."""

    def __init__(self, table: SnapshotTable) -> None:
        """Look at the columns of a revision.

        Args:
            table: The columns.
        """
        self._table = table

    def __len__(self) -> int:
        return self._table.samples

    def __iter__(self) -> Iterator[str]:
        return iter_texts(self._table.texts("key"))

    def __contains__(self, key: object) -> bool:
        return self._table.rows_by_key.row_of(key) is not None

    def __getitem__(self, key: str) -> Place:
        row = self._table.rows_by_key.row_of(key)
        if row is None:
            raise KeyError(key)
        return self._table.places(row, row + 1)[0]

    def pairs(self) -> Iterator[tuple[str, Place]]:
        """Yield keys and places in the order in which their prompts entered."""
        for start in range(0, len(self), _BLOCK):
            stop = min(start + _BLOCK, len(self))
            keys = self._table.texts("key").block(start, stop)
            yield from zip(keys, self._table.places(start, stop), strict=True)


def _believed(read: Callable[[], _Column]) -> _Column:
    """Read a column of a file that has the content it was written with."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"A snapshot of a revision cannot be read ({error}), and no program of this project wrote it. Delete the"
            " `.columns` files in `revisions`: the revisions are read without them."
        ) from error


def iter_texts(texts: Strings) -> Iterator[str]:
    """Yield the texts of a column, block by block.

    Args:
        texts: The column.
    """
    for start in range(0, len(texts), _BLOCK):
        yield from texts.block(start, min(start + _BLOCK, len(texts)))


def _files_of(about: str) -> dict[str, FileRef]:
    return {role: FileRef(**fields) for role, fields in json.loads(about).items()} if about else {}
