"""What a revision is in full, and how one small change makes the next of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evolvedirector.records import DatasetState, FileRef, PromptEntry, Sample
from evolvedirector.records.layered import with_changes
from evolvedirector.store.codec import file_to_json, prompt_from_json, state_from_json
from evolvedirector.store.errors import StoreError
from evolvedirector.store.shards import Shard, check_key

FORMATS = (1, 2, 3, 4, 5)
"""Formats of a delta: plain; with further roles, variants or companion shards; with draw weights of single samples;
with companions that say which part made them; with companions of its parent dropped. A program that does not know what
a revision holds must not read it as if that were not there. Each delta has the lowest that says all it holds, so those
of before stay byte for byte."""
_SHARD_NAME = re.compile(r"[rc][0-9]{4,}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample lies: the shard, its ordinal there, and its size in pixels (for aspect buckets)."""

    shard: str
    ordinal: int
    width_px: int
    height_px: int
    roles: frozenset[str] = frozenset()
    """Of the further files that lie there with the image."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision in full: what the policy sees, and where the bytes are."""

    number: int
    parent_sha: str | None
    round_id: str
    state: DatasetState
    places: Mapping[str, Place] = field(default_factory=dict)
    """By sample key."""
    shards: Mapping[str, Shard] = field(default_factory=dict)
    """By name: every shard that some sample of this revision lies in."""
    companions: Mapping[str, Shard] = field(default_factory=dict)
    """By name, oldest first: shards of files derived later. Where two have the same role of a sample, the newer counts.
    """
    held: Mapping[str, int] = field(default_factory=dict)
    """How many samples of this revision lie in each of its shards, by name."""


class Folding:
    """Make a revision by one delta after the other; what is not touched is not copied, however much it is."""

    def __init__(self, parent: Revision | None) -> None:
        """Begin.

        Args:
            parent: What the first delta changes, and stays as it is. None: nothing.
        """
        self._revision = parent or Revision(0, None, "", DatasetState("", {}))
        self._entries: dict[str, PromptEntry] = {}
        self._places: dict[str, Place | None] = {}
        self._held = dict(self._revision.held)
        self._shards = dict(self._revision.shards)
        self._companions = dict(self._revision.companions)
        state = self._revision.state
        self._skill_weights, self._replay_share = state.skill_weights, state.replay_share
        self._sample_weights = state.sample_weights
        self._last: tuple[int, str | None, str] = (0, None, "")

    def fold(self, body: Mapping[str, Any]) -> None:
        """Apply one delta.

        Args:
            body: As its file holds it.
        """
        for fields in body["prompts"]:
            prompt = prompt_from_json(fields)
            if prompt.id not in self._entries and prompt.id not in self._revision.state.entries:
                self._entries[prompt.id] = PromptEntry(prompt, "candidate")
        for fields in body["shards"]:
            self._shards[fields["name"]] = checked_shard(Shard(**fields))
        for name in body.get("dropped_companions", ()):
            self._companions.pop(name, None)
        for fields in body.get("companions", ()):
            shard = Shard(**{**fields, "roles": tuple(fields["roles"])})
            self._companions[fields["name"]] = checked_shard(shard)
        for fields in body["samples"]:
            self._enter(fields)
        for prompt_id, state in body["states"].items():
            self._entries[prompt_id] = replace(self._entry(prompt_id), state=state_from_json(state))
        if body["skill_weights"] is not None:
            self._skill_weights = body["skill_weights"]
        if body["replay_share"] is not None:
            self._replay_share = body["replay_share"]
        self._sample_weights = body.get("sample_weights", self._sample_weights)
        self._last = (body["number"], body["parent"], body["round_id"])

    def finish(self, sha: str) -> Revision:
        """Return what has come of it.

        Args:
            sha: Of the revision that the last delta makes.
        """
        state = DatasetState(
            revision_sha=sha,
            entries=with_changes(self._revision.state.entries, self._entries),
            skill_weights=self._skill_weights,
            replay_share=self._replay_share,
            sample_weights=self._sample_weights,
        )
        places = with_changes(self._revision.places, self._places)
        held = {name: count for name, count in self._held.items() if count}
        shards = {name: shard for name, shard in self._shards.items() if name in held}
        return Revision(*self._last, state, places, shards, self._companions, held)

    def _enter(self, fields: Mapping[str, Any]) -> None:
        """Put a sample in the place of the one of its prompt and variant."""
        old = self._entry(fields["prompt_id"])
        sample = _sample_from_json(fields, old)
        for replaced in old.samples:
            if replaced.variant == sample.variant and replaced.key != sample.key:
                self._put(replaced.key, None)
        self._entries[old.prompt.id] = _with_sample(old, sample)
        size_px = fields["width_px"], fields["height_px"]
        self._put(sample.key, Place(fields["shard"], fields["ordinal"], *size_px, frozenset(sample.files)))

    def _put(self, key: str, place: Place | None) -> None:
        """Note where a sample lies, and how many each shard holds that count."""
        old = self._places[key] if key in self._places else self._revision.places.get(key)
        if old is not None:
            self._held[old.shard] -= 1
        if place is not None:
            self._held[place.shard] = self._held.get(place.shard, 0) + 1
        self._places[key] = place

    def _entry(self, prompt_id: str) -> PromptEntry:
        return self._entries[prompt_id] if prompt_id in self._entries else self._revision.state.entries[prompt_id]


def apply(parent: Revision | None, sha: str, body: Mapping[str, Any]) -> Revision:
    """Apply one delta to its parent (pure; the parent stays as it is)."""
    folding = Folding(parent)
    folding.fold(body)
    return folding.finish(sha)


def _sample_from_json(fields: Mapping[str, Any], entry: PromptEntry) -> Sample:
    files = {role: FileRef(**about) for role, about in fields.get("files", {}).items()}
    variant = fields.get("variant", "")
    check_key(fields["key"])  # readers hold all keys in the width of the longest
    return Sample(fields["key"], entry.prompt, fields["image_sha256"], fields["teacher"], files, variant)


def _with_sample(entry: PromptEntry, sample: Sample) -> PromptEntry:
    """Put a sample in the place of the one with its variant, or behind all others."""
    samples = list(entry.samples)
    place = next((n for n, old in enumerate(samples) if old.variant == sample.variant), len(samples))
    samples[place : place + 1] = [sample]
    return PromptEntry(entry.prompt, "live", samples[0], tuple(samples[1:]))


def sample_to_json(sample: Sample, place: Place) -> dict[str, Any]:
    """Write a sample of a revision, with its place; its prompt is named by id."""
    fields: dict[str, Any] = {
        "key": sample.key,
        "prompt_id": sample.prompt.id,
        "image_sha256": sample.image_sha256,
        "teacher": sample.teacher,
        "shard": place.shard,
        "ordinal": place.ordinal,
        "width_px": place.width_px,
        "height_px": place.height_px,
    }
    if sample.files:
        fields["files"] = {role: file_to_json(file) for role, file in sample.files.items()}
    if sample.variant:
        fields["variant"] = sample.variant
    return fields


def shard_to_json(shard: Shard) -> dict[str, Any]:
    """Write a shard of a revision."""
    return {"name": shard.name, "samples": shard.samples, "tar_bytes": shard.tar_bytes, "sha256": shard.sha256}


def companions_to_json(companions: Sequence[Shard]) -> dict[str, Any]:
    """Write the companion shards of a revision; nothing at all where there are none."""
    if not companions:
        return {}
    return {"companions": [_companion_to_json(shard) for shard in companions]}


def _companion_to_json(shard: Shard) -> dict[str, Any]:
    made_by = {"made_by": shard.made_by} if shard.made_by else {}
    return {**shard_to_json(shard), "roles": list(shard.roles), **made_by}


def weights_to_json(sample_weights: Mapping[str, float] | None) -> dict[str, Any]:
    """Write the draw weights of single samples; nothing at all where those of the parent are kept."""
    return {} if sample_weights is None else {"sample_weights": dict(sample_weights)}


def format_of(body: Mapping[str, Any]) -> int:
    """Return the lowest of `FORMATS` that says all that a delta holds."""
    if "dropped_companions" in body:
        return 5
    if any("made_by" in companion for companion in body.get("companions", ())):
        return 4
    if "sample_weights" in body:
        return 3
    new = "companions" in body or any("files" in s or "variant" in s for s in body["samples"])
    return 2 if new else 1


def checked_shard(shard: Shard) -> Shard:
    """Refuse a name that would lead out of the folder of shards, and sizes that none has."""
    if any(type(number) is not int or number < 0 for number in (shard.samples, shard.tar_bytes)):
        raise StoreError(
            f"A revision says of the shard {shard.name!r} that it has {shard.samples!r} samples and"
            f" {shard.tar_bytes!r} bytes. Both are whole numbers from 0 on. Use no root of an unknown source."
        )
    if not _SHARD_NAME.fullmatch(shard.name):
        raise StoreError(
            f"A revision names the shard {shard.name!r}. Names are r or c, the number of a revision, and the first 12"
            " characters of a sha256. Use no root of an unknown source."
        )
    return shard
