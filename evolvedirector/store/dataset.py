"""The evolving dataset as its single writer sees it: open, look at a revision, publish the next."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

from evolvedirector.records import DatasetState, FileRef, Prompt, PromptEntry, RevisionChange, Sample
from evolvedirector.store.blobs import Blobs
from evolvedirector.store.card import CARD, keep_card
from evolvedirector.store.codec import prompt_to_json
from evolvedirector.store.delta import (
    Place,
    Revision,
    apply,
    companions_to_json,
    sample_to_json,
    shard_to_json,
    weights_to_json,
)
from evolvedirector.store.durable import make_folder, write_durably
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import checked_ref
from evolvedirector.store.images import image_size
from evolvedirector.store.ledger import Ledger
from evolvedirector.store.mirror import mirror_of
from evolvedirector.store.naming import collected_revisions
from evolvedirector.store.paths import user_path
from evolvedirector.store.revision import RevisionFiles, encoded, wants_snapshot
from evolvedirector.store.shards import MAX_SHARD_SAMPLES, Shard, companion_members, sample_members, write_shard

FORMAT = 1
MOST_WEIGHT = 1e6
"""Largest draw weight of a sample: far above what any policy gives, far below what sums up inexactly."""
COMPACT = "compact"
"""Begins the round id of a revision that only moved samples to other shards."""
_FORMAT_NAME = "evolvedirector dataset"


class DatasetStore:
    """Write an evolving dataset; one process at a time, whatever else reads it.

    A crash at any point leaves the old revision or the new one, never something between: shards are written, read
    back and renamed first, then the ledger knows, then the revision exists, and `CURRENT` moves last.
    """

    def __init__(self, root: Path, create: bool = False) -> None:
        """Open a dataset root for writing.

        Args:
            root: The folder of the dataset.
            create: Make an empty dataset there if there is none.

        Raises:
            StoreError: If it is no dataset, of another version, or open in another process.
        """
        self.root = user_path(root)
        if (mirror := mirror_of(self.root)) is not None:
            raise StoreError(
                f"The root at '{mirror.objects.url}' cannot be written to: ledger and blobs of a root lie on a local"
                " disk, and only what is published is pushed. Name the local root here, and push it to the URL."
            )
        if create:
            create_root(self.root)
        check_format(self.root)
        self._lock = lock_root(self.root)
        try:
            _sweep(self.root)
            self.ledger = Ledger(self.root / "ledger.sqlite")
        except BaseException:
            os.close(self._lock)
            raise
        self.blobs = Blobs(self.root)
        self._revisions = RevisionFiles(self.root)
        self._last: Revision | None = None

    def __enter__(self) -> DatasetStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger and let another process open the root; closing twice is harmless."""
        if self._lock >= 0:
            self.ledger.close()
            os.close(self._lock)
            self._lock = -1

    def current(self) -> str | None:
        """Name the newest published revision; None before the first."""
        return self._revisions.current()

    def revisions(self) -> list[str]:
        """Name all revisions as `<number>-<first 12 of sha>`, oldest first; forks share a number."""
        return self._revisions.listed()

    def revision(self, sha: str) -> Revision:
        """Rebuild a revision in full, with the places of its samples."""
        last = self._last  # another thread may be looking at another one
        if last is None or last.state.revision_sha != sha:
            self._last = last = self._revisions.load(sha)
        return last

    def state(self, sha: str) -> DatasetState:
        """Rebuild a revision as a policy sees it.

        Raises:
            StoreError: If there is no such revision; the message names those that exist.
        """
        return self.revision(sha).state

    def number(self, sha: str) -> int:
        """Count the steps from the first revision (1) to this one."""
        return self.revision(sha).number

    def publish(
        self,
        parent_sha: str | None,
        round_id: str,
        change: RevisionChange,
        derived: Iterable[tuple[str, Mapping[str, FileRef]]] = (),
        made_by: str = "",
    ) -> str:
        """Publish the next revision and point `CURRENT` to it.

        A parent that already has a child of this round gives that child, so a round that was cut off after publishing
        can be repeated.

        Args:
            parent_sha: The revision that the change starts from; None for the first one.
            round_id: Names the round (or `import`).
            change: The delta. The files of its samples must be in `blobs`.
            derived: As for `publish_companion`, of samples of the parent or of the change; may be empty. Samples and
                what was derived of them are there together or not at all.
            made_by: As for `publish_companion`.

        Returns:
            The sha of the revision.

        Raises:
            StoreError: If the change names an unknown prompt or a missing image, or a file does not read back.
            DiskFullError: If the disk is full; nothing is published then.
        """
        parent = None if parent_sha is None else self.revision(parent_sha)
        number = parent.number + 1 if parent else 1
        sha = self._revisions.child(parent_sha, number, round_id)
        if sha is None:
            sha = self._publish_new(parent, parent_sha, number, round_id, change, derived, made_by)
        return self._name(sha, number, parent_sha, round_id)

    def _publish_new(
        self,
        parent: Revision | None,
        parent_sha: str | None,
        number: int,
        round_id: str,
        change: RevisionChange,
        derived: Iterable[tuple[str, Mapping[str, FileRef]]],
        made_by: str,
    ) -> str:
        entries = parent.state.entries if parent else {}
        _check_change(entries, parent.places if parent else {}, change)
        # a prompt that enters with its image is described once, as a prompt
        prompts = {p.id: p for p in (*change.prompts, *(s.prompt for s in change.samples)) if p.id not in entries}
        new: dict[str, Place] = {}
        places = ChainMap(new, parent.places if parent else {})  # type: ignore[arg-type]  # only the new ones change
        shards = self._write_shards(number, [s for s in change.samples if s.key not in places], new)
        companions = self._write_companions(number, places, derived, made_by)
        body: dict[str, Any] = {
            "number": number,
            "parent": parent_sha,
            "round_id": round_id,
            "prompts": [prompt_to_json(prompt) for prompt in prompts.values()],
            "samples": [sample_to_json(sample, places[sample.key]) for sample in change.samples],
            "shards": [shard_to_json(shard) for shard in shards],
            "states": dict(change.states),
            "skill_weights": None if change.skill_weights is None else dict(change.skill_weights),
            "replay_share": change.replay_share,
            **companions_to_json(companions),
            **weights_to_json(change.sample_weights),
        }
        return self._write_revision(parent, body, list(prompts.values()))

    def _refuse_collected(self, sha: str | None) -> None:
        """Neither build on a revision whose files are gone nor name it as the newest."""
        if sha in collected_revisions(self.root):
            raise StoreError(
                f"Revision {self.number(sha or '')} of '{self.root}' cannot be used: `evolvedirector data collect` has"
                " deleted its files. Only one that is whole is built on or read. Begin at a newer one (`data show`)."
            )

    def _write_revision(self, parent: Revision | None, body: dict[str, Any], prompts: Sequence[Prompt] = ()) -> str:
        """Let the ledger know, then write the revision that makes it true; its shards are durable already."""
        self._refuse_collected(body["parent"])
        sha, data = encoded(body)
        revision = apply(parent, sha, json.loads(data))  # proves that it can be read before anything names it
        keep_card(self.root, _files_for_card(self.root, revision, body["samples"]))
        self.ledger.prompts.add(prompts)
        self._revisions.write(body)
        self._last = revision
        return sha

    def publish_companion(
        self, parent_sha: str, name: str, derived: Iterable[tuple[str, Mapping[str, FileRef]]], made_by: str = ""
    ) -> str:
        """Publish files that were derived for samples which already exist, and point `CURRENT` to the new revision.

        The new revision has the prompts, samples and draw weights of its parent; its samples have further roles. A
        parent that already has a companion of this name gives that child, and `derived` is not read.

        Args:
            parent_sha: The revision whose samples they belong to.
            name: Names the work, such as `clip-vit-l-14`.
            derived: Sample key and its files by role, each with its content; every key once; consumed one by one. A
                role that an older companion has is replaced.
            made_by: Fingerprint of the part that made them, kept with the shards. Empty: nobody says it.

        Returns:
            The sha of the revision.

        Raises:
            StoreError: If there is nothing to publish, a sample is not in the revision or has that role of its own, or
                a file is refused.
            DiskFullError: If the disk is full; nothing is published then.
        """
        parent = self.revision(parent_sha)

        def content(number: int) -> dict[str, Any]:
            shards = self._write_companions(number, parent.places, derived, made_by)
            if not shards:
                raise StoreError(
                    "There is no file to publish. At least one sample must have one. Give (key, files) pairs."
                )
            return companions_to_json(shards)

        return self._publish_content(parent, f"companion:{name}", content)

    def publish_compaction(self, parent_sha: str, name: str, pack: Callable[[int], Mapping[str, Any]]) -> str:
        """Publish what a revision holds in other shards, and point `CURRENT` to the new revision.

        Args:
            parent_sha: The revision whose prompts, samples, states and weights the new one has.
            name: Names the work. A parent that already has a compaction of this name gives that child.
            pack: Writes the shards under the number that it is given; returns the fields of the delta that differ.

        Returns:
            The sha of the revision.

        Raises:
            DiskFullError: If the disk is full; nothing is published then.
        """
        return self._publish_content(self.revision(parent_sha), f"{COMPACT}:{name}", pack)

    def _publish_content(self, parent: Revision, round_id: str, content: Callable[[int], Mapping[str, Any]]) -> str:
        """Publish a revision with the prompts of its parent, or take the one that is there."""
        number, parent_sha = parent.number + 1, parent.state.revision_sha
        sha = self._revisions.child(parent_sha, number, round_id)
        if sha is None:
            body: dict[str, Any] = {
                "number": number,
                "parent": parent_sha,
                "round_id": round_id,
                "prompts": [],
                "samples": [],
                "shards": [],
                "states": {},
                "skill_weights": None,
                "replay_share": None,
            }
            sha = self._write_revision(parent, {**body, **content(number)})
        return self._name(sha, number, parent_sha, round_id)

    def _name(self, sha: str, number: int, parent_sha: str | None, round_id: str) -> str:
        """Do what follows once a revision is there, whoever wrote it and however far that one came."""
        self._refuse_collected(sha)
        self.ledger.rounds.record_revision(sha, number, parent_sha, round_id)
        revision = self.revision(sha)
        if wants_snapshot(revision):
            self._revisions.keep_snapshot(sha, revision)
            self._last = None  # a large one is held as the columns that were just written
        self._revisions.set_current(sha)
        return sha

    def _write_companions(
        self,
        number: int,
        places: Mapping[str, Place],
        derived: Iterable[tuple[str, Mapping[str, FileRef]]],
        made_by: str,
    ) -> list[Shard]:
        queue = _checked_companions(derived, places)
        shards = []
        for first in queue:
            part = chain([first], islice(queue, MAX_SHARD_SAMPLES - 1))
            roles: set[str] = set()
            members = (_noting_roles(key, files, roles) for key, files in part)
            shard = write_shard(self.root / "shards", number, members, companion=True)
            shards.append(replace(shard, roles=tuple(sorted(roles)), made_by=made_by))
        return shards

    def _write_shards(self, number: int, samples: list[Sample], places: dict[str, Place]) -> list[Shard]:
        """Pack new samples into shards, reading one sample at a time; adds their places."""
        shards = []
        queue = iter(samples)
        while part := list(islice(queue, MAX_SHARD_SAMPLES)):
            sizes: list[tuple[int, int]] = []
            shard = write_shard(self.root / "shards", number, self._members(part, sizes))
            for ordinal, (sample, size) in enumerate(zip(part, sizes, strict=True)):
                places[sample.key] = Place(shard.name, ordinal, *size, frozenset(sample.files))
            shards.append(shard)
        return shards

    def _members(self, samples: list[Sample], sizes: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            image = self.blobs.get(sample.image_sha256)
            sizes.append(image_size(image))
            files = {role: self.blobs.get(file.sha256) for role, file in sample.files.items()}
            yield sample_members(sample, image, files)


def _files_for_card(
    root: Path, revision: Revision, samples: Sequence[Mapping[str, Any]]
) -> Iterator[Mapping[str, FileRef]]:
    """Yield the files of the new samples; those of all of them where there is no card that named the others."""
    if not (root / CARD).exists():
        yield from (sample.files for entry in revision.state.entries.values() for sample in entry.samples)
    for fields in samples:
        yield {role: FileRef(**about) for role, about in fields.get("files", {}).items()}


def _checked_companions(
    derived: Iterable[tuple[str, Mapping[str, FileRef]]], places: Mapping[str, Place]
) -> Iterator[tuple[str, Mapping[str, FileRef]]]:
    """Pass on derived files, each read whole, that can be joined to one sample each."""
    seen: set[str] = set()
    for key, files in derived:
        if key not in places or key in seen:
            what = "comes twice" if key in seen else "is not in the revision"
            raise StoreError(
                f"The sample '{key}' {what}. Each sample of the revision may have its derived files once."
                " Take the keys from the revision's state."
            )
        if not files or (taken := places[key].roles & files.keys()):
            what = f"already has the role '{min(taken)}' of its own" if files else "comes without a file"
            raise StoreError(
                f"The sample '{key}' {what}. A companion holds at least one further role per sample."
                " Name another role, or leave the sample out."
            )
        seen.add(key)
        yield key, {role: checked_ref(file) for role, file in files.items()}


def _noting_roles(key: str, files: Mapping[str, FileRef], roles: set[str]) -> dict[str, Any]:
    roles.update(files)
    return companion_members(key, files)


def create_root(root: Path) -> None:
    """Make an empty dataset root; an existing one stays as it is.

    Raises:
        StoreError: If the folder holds something else.
    """
    if (root / "format.json").exists():
        return
    if root.exists() and not root.is_dir():
        raise StoreError(f"'{root}' is a file. A dataset root is a folder. Name another path.")
    foreign = sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) if root.exists() else []
    if foreign:
        raise StoreError(
            f"'{root}' is not empty and no dataset root: it holds '{foreign[0]}'. Name a new or an empty folder."
        )
    make_folder(root.absolute())
    write_durably(root / "format.json", json.dumps({"name": _FORMAT_NAME, "format": FORMAT}).encode() + b"\n")


def check_format(root: Path) -> None:
    """Refuse a folder that is no dataset root or was written by another format version.

    Raises:
        StoreError: With what to do.
    """
    if (mirror := mirror_of(root)) is not None:
        mirror.bring_format()
    path = root / "format.json"
    if not path.exists():
        raise StoreError(
            f"'{root}' is no dataset root: it has no format.json. Make one with"
            f" `evolvedirector data import {shlex.quote(str(root))} --prompts FILE`, or name an existing one."
        )
    try:
        about = json.loads(path.read_bytes())
        version = about["format"] if about["name"] == _FORMAT_NAME else None
    except (ValueError, KeyError, TypeError):
        version = None
    if version != FORMAT:
        if mirror is not None:  # another one may be pushed there
            path.unlink(missing_ok=True)
        where = root if mirror is None else mirror.objects.url
        raise StoreError(
            f"The dataset root '{where}' was written with format {version}. This program reads and writes format"
            f" {FORMAT}. Use the version of evolvedirector that wrote it, or name another root."
        )


def lock_root(root: Path) -> int:
    """Lock a root for this process; the lock ends with the process, however it ends.

    Returns:
        A descriptor; closing it ends the lock.

    Raises:
        StoreError: Another process holds it.
    """
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
        os.close(descriptor)
        raise StoreError(
            f"The dataset root '{root}' is open for writing in {owner}. Only one may write at a time."
            " Wait for it, stop it, or name another root."
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


def _sweep(root: Path) -> None:
    """Delete what a killed writer left half-written; nobody else writes while the root is locked."""
    for folder in (root, root / "shards", root / "revisions"):
        for leftover in (*folder.glob(".*.tmp.*"), *folder.glob(".*.writing")):
            leftover.unlink(missing_ok=True)


def _check_change(entries: Mapping[str, PromptEntry], places: Mapping[str, Place], change: RevisionChange) -> None:
    """Refuse a change that the next revision could not hold."""
    keys: set[str] = set()
    slots: set[tuple[str, str]] = set()
    for sample in change.samples:
        if sample.key in keys or (sample.prompt.id, sample.variant) in slots:
            raise StoreError(
                f"Two samples of one change have the same prompt and variant ('{sample.key}'). At most one may."
                " Give the second one another variant: `Sample.create(..., variant='second')`."
            )
        keys.add(sample.key)
        slots.add((sample.prompt.id, sample.variant))
    bought = {sample.prompt.id for sample in change.samples}
    new = bought | {prompt.id for prompt in change.prompts}
    for prompt_id, state in change.states.items():
        entry = entries.get(prompt_id)
        if entry is None and prompt_id not in new:
            raise StoreError(f"The change sets the state of the unknown prompt '{prompt_id}'. Add the prompt first.")
        if state in ("live", "mastered") and prompt_id not in bought and (entry is None or entry.sample is None):
            raise StoreError(
                f"The change makes the prompt '{prompt_id}' {state}, but it has no image. Publish a sample for it."
            )
    if change.sample_weights:
        _check_weights(change.sample_weights, keys, places)


def _check_weights(weights: Mapping[str, float], new: Set[str], places: Mapping[str, Place]) -> None:
    for key, weight in weights.items():
        if key not in new and key not in places:
            raise StoreError(
                f"The change weighs the unknown sample '{key}'. Name samples of the revision by their key."
            )
        if not 0 < weight <= MOST_WEIGHT:
            raise StoreError(
                f"The change gives the sample '{key}' the weight {weight}. Allowed: over 0, up to {MOST_WEIGHT:g}; 1 is"
                " as often as others. Retire the prompt to leave it out."
            )
