"""Revisions as deltas: one small JSON file each, named and chained by content; a full snapshot every 32."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evolvedirector.records import DatasetState, FileRef, PromptEntry, Sample
from evolvedirector.store.codec import canonical_json, prompt_from_json, prompt_to_json, state_from_json
from evolvedirector.store.durable import make_folder, write_durably
from evolvedirector.store.errors import StoreError
from evolvedirector.store.paths import user_path
from evolvedirector.store.shards import Shard

SNAPSHOT_EVERY = 32
_FORMAT = 1
_FORMAT_WITH_FILES = 2
"""Of a revision with further roles, variants or companion shards: a program that knows none of them must not read it as
if they were not there. All others stay as they always were, byte for byte."""
_FORMAT_WITH_WEIGHTS = 3
"""Of a revision that says how often single samples are drawn, for the same reason."""
_FORMAT_WITH_MAKERS = 4
"""Of a revision with companions that say which part made them: embeddings of two parts must not be taken for one."""
_FORMAT_WITH_DROPPED = 5
"""Of a revision that drops companions of its parent: what they held lies in others now."""
_FORMATS = (_FORMAT, _FORMAT_WITH_FILES, _FORMAT_WITH_WEIGHTS, _FORMAT_WITH_MAKERS, _FORMAT_WITH_DROPPED)
_SHARD_NAME = re.compile(r"[rc][0-9]{4,}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample lies: the shard, its ordinal there, and its size in pixels (for aspect buckets)."""

    shard: str
    ordinal: int
    width_px: int
    height_px: int


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


class RevisionFiles:
    """The `revisions` folder of a root. Reading needs no lock: a file there is whole and never changes."""

    def __init__(self, root: Path) -> None:
        """Open the revisions of a dataset root; the folder is made at the first write."""
        self.folder = user_path(root) / "revisions"
        self._current = user_path(root) / "CURRENT"

    def write(self, body: Mapping[str, Any]) -> str:
        """Write one delta durably; returns the sha of the revision, which covers the parent's."""
        data = canonical_json({"format": _format_of(body), **body})
        sha = hashlib.sha256(data).hexdigest()
        make_folder(self.folder)
        write_durably(self.folder / f"{body['number']:06d}-{sha[:12]}.json", data)
        return sha

    def keep_snapshot(self, sha: str, revision: Revision) -> None:
        """Write a revision in full, unless that is there, so that reading it needs none of its ancestors."""
        if self._snapshot(sha) is None:
            self.write_snapshot(sha, revision)

    def write_snapshot(self, sha: str, revision: Revision) -> None:
        """Write a revision in full."""
        data = canonical_json(_snapshot_to_json(sha, revision))
        # a cache with its own checksum: a damaged one is ignored and the deltas are read instead
        line = hashlib.sha256(data).hexdigest().encode() + b"\n"
        write_durably(self.folder / f"{revision.number:06d}-{sha[:12]}.snapshot", line + data)

    def current(self) -> str | None:
        """Read the sha of the newest published revision; None before the first."""
        return self._current.read_text("ascii", "replace").strip() if self._current.exists() else None

    def set_current(self, sha: str) -> None:
        """Point `CURRENT` to a revision, in one step."""
        write_durably(self._current, sha.encode() + b"\n")

    def listed(self) -> list[str]:
        """Name all revisions as `<number>-<first 12 of sha>`, oldest first."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def shas(self) -> list[str]:
        """Name all revisions by the whole sha of what their files hold, oldest first."""
        return [_sha_of(path) for path in sorted(self.folder.glob("*.json"))]

    def resolve(self, sha: str) -> str:
        """Turn an abbreviated sha (at least 6 characters) into the full one.

        Raises:
            StoreError: If none or several revisions match; the message names those that exist.
        """
        matches = [path for path in self.folder.glob(f"*-{sha[:12]}*.json")] if _is_hex(sha) and len(sha) >= 6 else []
        found = [full for full in map(_sha_of, matches) if full.startswith(sha)]
        if len(found) == 1:
            return found[0]
        known = ", ".join(self.listed()[-20:]) or "none"
        raise StoreError(
            f"The revision '{sha}' {'is ambiguous' if found else 'does not exist'} in '{self.folder.parent}'."
            f" The revisions there are: {known}. Name one of them by its sha."
        )

    def body(self, sha: str) -> dict[str, Any]:
        """Read one delta and check its content against the sha."""
        paths = list(self.folder.glob(f"*-{sha[:12]}.json"))
        if not paths:
            self.resolve(sha)
        for path in paths:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha:
                body = _json_of(path, data)
                if body.get("format") not in _FORMATS:
                    raise StoreError(
                        f"'{path}' has format {body.get('format')}. This program reads {_FORMATS[0]} to {_FORMATS[-1]}."
                        " Use the version of evolvedirector that wrote it."
                    )
                return body
        raise StoreError(f"'{paths[0]}' no longer has the content its name says. Restore it from a copy.")

    def child(self, parent_sha: str | None, number: int, round_id: str) -> str | None:
        """Find the revision that a round already published on this parent."""
        for path in sorted(self.folder.glob(f"{number:06d}-*.json")):
            data = path.read_bytes()
            body = json.loads(data)
            if body["parent"] == parent_sha and body["round_id"] == round_id:
                return hashlib.sha256(data).hexdigest()
        return None

    def load(self, sha: str) -> Revision:
        """Rebuild a revision from the nearest snapshot and the deltas after it."""
        chain: list[tuple[str, dict[str, Any]]] = []
        next_sha: str | None = sha
        base: Revision | None = None
        while next_sha is not None and (base := self._snapshot(next_sha)) is None:
            chain.append((next_sha, self.body(next_sha)))
            next_sha = chain[-1][1]["parent"]
        revision = base
        for own_sha, body in reversed(chain):
            try:
                revision = apply(revision, own_sha, body)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise StoreError(
                    f"The revision {own_sha[:12]} in '{self.folder}' cannot be rebuilt ({type(error).__name__}:"
                    f" {error}). It has the bytes that its name says, and no program of this project wrote"
                    " them. Restore the root from a copy."
                ) from error
        assert revision is not None
        return revision

    def _snapshot(self, sha: str) -> Revision | None:
        for path in self.folder.glob(f"*-{sha[:12]}.snapshot"):
            line, _, data = path.read_bytes().partition(b"\n")
            if hashlib.sha256(data).hexdigest().encode() == line:
                fields = json.loads(data)
                if fields["sha"] == sha and fields["format"] in _FORMATS:
                    return _snapshot_from_json(fields)
        return None


def apply(parent: Revision | None, sha: str, body: Mapping[str, Any]) -> Revision:
    """Apply one delta to its parent (pure; the parent stays as it is)."""
    entries = dict(parent.state.entries) if parent else {}
    places = dict(parent.places) if parent else {}
    shards = dict(parent.shards) if parent else {}
    companions = dict(parent.companions) if parent else {}
    prompts = {fields["id"]: prompt_from_json(fields) for fields in body["prompts"]}
    for prompt_id, prompt in prompts.items():
        entries.setdefault(prompt_id, PromptEntry(prompt, "candidate"))
    for fields in body["shards"]:
        shards[fields["name"]] = _checked_shard(Shard(**fields))
    for name in body.get("dropped_companions", ()):
        companions.pop(name, None)
    for fields in body.get("companions", ()):
        companions[fields["name"]] = _checked_shard(Shard(**{**fields, "roles": tuple(fields["roles"])}))
    for fields in body["samples"]:
        old = entries[fields["prompt_id"]]
        sample = _sample_from_json(fields, old)
        for replaced in old.samples:
            if replaced.variant == sample.variant and replaced.key != sample.key:
                places.pop(replaced.key, None)
        entries[old.prompt.id] = _with_sample(old, sample)
        places[sample.key] = Place(fields["shard"], fields["ordinal"], fields["width_px"], fields["height_px"])
    for prompt_id, state in body["states"].items():
        entries[prompt_id] = replace(entries[prompt_id], state=state_from_json(state))
    used = {place.shard for place in places.values()}
    weights = body["skill_weights"]
    share = body["replay_share"]
    inherited = parent.state.sample_weights if parent else {}
    state = DatasetState(
        revision_sha=sha,
        entries=entries,
        skill_weights=(parent.state.skill_weights if parent else {}) if weights is None else weights,
        replay_share=(parent.state.replay_share if parent else 0.0) if share is None else share,
        sample_weights=body.get("sample_weights", inherited),
    )
    kept = {name: shard for name, shard in shards.items() if name in used}
    return Revision(body["number"], body["parent"], body["round_id"], state, places, kept, companions)


def _sample_from_json(fields: Mapping[str, Any], entry: PromptEntry) -> Sample:
    files = {role: FileRef(**about) for role, about in fields.get("files", {}).items()}
    variant = fields.get("variant", "")
    return Sample(fields["key"], entry.prompt, fields["image_sha256"], fields["teacher"], files, variant)


def _with_sample(entry: PromptEntry, sample: Sample) -> PromptEntry:
    """Put a sample in the place of the one with its variant, or behind all others."""
    samples = list(entry.samples)
    place = next((n for n, old in enumerate(samples) if old.variant == sample.variant), len(samples))
    samples[place : place + 1] = [sample]
    return PromptEntry(entry.prompt, "live", samples[0], tuple(samples[1:]))


def _snapshot_to_json(sha: str, revision: Revision) -> dict[str, Any]:
    state = revision.state
    fields = {
        "sha": sha,
        "number": revision.number,
        "parent": revision.parent_sha,
        "round_id": revision.round_id,
        "skill_weights": dict(state.skill_weights),
        "replay_share": state.replay_share,
        "prompts": [prompt_to_json(entry.prompt) for entry in state.entries.values()],
        "states": {prompt_id: entry.state for prompt_id, entry in state.entries.items()},
        "samples": [sample_to_json(sample, revision.places[sample.key]) for sample in _samples(state)],
        "shards": [shard_to_json(shard) for shard in revision.shards.values()],
        **companions_to_json(list(revision.companions.values())),
        **weights_to_json(state.sample_weights or None),
    }
    return {"format": _format_of(fields), **fields}


def _snapshot_from_json(fields: Mapping[str, Any]) -> Revision:
    """A snapshot is one large delta on nothing, so the same code reads both."""
    return apply(None, fields["sha"], fields)


def _samples(state: DatasetState) -> Iterator[Sample]:
    return (sample for entry in state.entries.values() for sample in entry.samples)


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
        fields["files"] = {role: _file_to_json(file) for role, file in sample.files.items()}
    if sample.variant:
        fields["variant"] = sample.variant
    return fields


def _file_to_json(file: FileRef) -> dict[str, Any]:
    return {
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "media_type": file.media_type,
        "width_px": file.width_px,
        "height_px": file.height_px,
    }


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


def _format_of(body: Mapping[str, Any]) -> int:
    if "dropped_companions" in body:
        return _FORMAT_WITH_DROPPED
    if any("made_by" in companion for companion in body.get("companions", ())):
        return _FORMAT_WITH_MAKERS
    if "sample_weights" in body:
        return _FORMAT_WITH_WEIGHTS
    new = "companions" in body or any("files" in s or "variant" in s for s in body["samples"])
    return _FORMAT_WITH_FILES if new else _FORMAT


def _json_of(path: Path, data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"'{path}' is no revision: {error}. Restore it from a copy.") from error
    if not isinstance(body, dict):
        raise StoreError(f"'{path}' is no revision: it holds no JSON object. Restore it from a copy.")
    return body


def _checked_shard(shard: Shard) -> Shard:
    """Refuse a name that would lead out of the folder of shards."""
    if not _SHARD_NAME.fullmatch(shard.name):
        raise StoreError(
            f"A revision names the shard {shard.name!r}. Names are r or c, the number of a revision, and the first 12"
            " characters of a sha256. Use no root of an unknown source."
        )
    return shard


def _is_hex(text: str) -> bool:
    return bool(text) and set(text) <= set("0123456789abcdef")


def _sha_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
