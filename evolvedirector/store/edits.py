"""Edit a dataset by hand between runs: add, retire, list. Each edit is a new revision on the newest one.

Nothing is removed from disk: a retired prompt keeps its tar, and adding it again brings it back. Whoever holds the root
(a run from its first purchase to its end) keeps editors out by the store's lock, so an edit never lands between two
rounds of a run. A run that goes on from a checkpoint reads the revision of the checkpoint; `edits_since` says what it
does not see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from evolvedirector.records import Prompt, PromptEntry, PromptState, RevisionChange, Sample, digest
from evolvedirector.store.dataset import DatasetStore, check_format
from evolvedirector.store.delta import Revision
from evolvedirector.store.errors import StoreError
from evolvedirector.store.imports import GIVEN, CaptionedImage, ImportReport, kept_samples
from evolvedirector.store.left_out import first_lines
from evolvedirector.store.revision import RevisionFiles
from evolvedirector.store.shards import open_index

ADD, RETIRE, COMPANION = "add", "retire", "companion"
"""What the name of a revision begins with that no round published."""
_TRAINED: tuple[PromptState, ...] = ("live", "mastered")
_MAX_LISTED = 10


@dataclass
class EditReport:
    """What an edit did: for the user to read."""

    prompts: int = 0
    """That entered; of a retirement, that were retired."""
    images: int = 0
    """That entered; of a retirement, that are trained on no longer."""
    revived: int = 0
    """Prompts that were retired and are back."""
    duplicates: int = 0
    """That were there already; of a retirement, that were retired already."""
    held_out: int = 0
    unusable: int = 0
    problems: list[str] = field(default_factory=list)
    """What was left out, with its place and reason; pictures that were there already among it."""
    notes: list[str] = field(default_factory=list)
    """What was taken, but not in every respect as it was given."""
    revision_sha: str = ""
    number: int = 0


# ---- add


def add_prompts(store: DatasetStore, prompts: Iterable[Prompt]) -> EditReport:
    """Add seed prompts; the next run buys images for them before its first epoch, inside its budget.

    A prompt that was retired comes back: with its images where it has some.

    Args:
        store: An open root with a revision.
        prompts: The seeds.

    Raises:
        StoreError: If none of them is new; nothing is published then.
    """
    parent, report = newest(store), EditReport()
    held_out = store.ledger.prompts.held_out()
    entered: dict[str, Prompt] = {}
    states: dict[str, PromptState] = {}
    for prompt in prompts:
        entry = parent.state.entries.get(prompt.id)
        if prompt.id in held_out:
            report.held_out += 1
        elif prompt.id in entered or prompt.id in states or (entry is not None and entry.state != "retired"):
            report.duplicates += 1
        elif entry is None:
            entered[prompt.id] = prompt
        else:
            states[prompt.id] = "live" if entry.sample else "candidate"
    report.prompts, report.revived = len(entered), len(states)
    return _publish_added(store, parent, RevisionChange(prompts=tuple(entered.values()), states=states), report)


def add_images(store: DatasetStore, images: Iterable[CaptionedImage], problems: list[str] | None = None) -> EditReport:
    """Add captioned pictures as they are; they are trained on from the next run on.

    A picture of a prompt that has one already stands beside it, as a variant named by its content. A prompt that was
    retired comes back: with its own picture if that is given again, else the new picture takes the place of its first.

    Args:
        store: An open root with a revision.
        images: Pictures with their captions; consumed one by one.
        problems: The list in which the reader of `images` notes what it leaves out. None: a list of its own.

    Raises:
        StoreError: If none of them is new; nothing is published then.
    """
    parent, found = newest(store), ImportReport(problems=[] if problems is None else problems)
    given = kept_samples(store, images, found)
    report = EditReport(duplicates=found.duplicates, problems=found.problems, notes=found.notes)
    entries, held_out = parent.state.entries, store.ledger.prompts.held_out()
    added: dict[str, list[Sample]] = {}
    states: dict[str, PromptState] = {}
    for sample in given:
        prompt_id = sample.prompt.id
        entry = entries.get(prompt_id)
        mine, old = added.get(prompt_id, []), entry.samples if entry else ()
        retired = entry is not None and entry.state == "retired" and prompt_id not in states
        there = [*mine, *(() if retired else old)]
        if prompt_id in held_out:
            report.held_out += 1
        elif retired and not mine and _is_among(sample, old):
            states[prompt_id] = "live"
        elif _is_among(sample, there):
            report.duplicates += 1
            report.problems.append(f"'{sample.prompt.text}': the same picture is in revision {parent.number} already")
        else:
            prompt = entry.prompt if entry else sample.prompt
            plain = Sample.create(prompt, sample.image_sha256, GIVEN, sample.files)
            variant = plain.key.rpartition("-")[2] if there else ""
            added.setdefault(prompt_id, []).append(
                Sample.create(prompt, sample.image_sha256, GIVEN, sample.files, variant)
            )
    samples = tuple(sample for of_prompt in added.values() for sample in of_prompt)
    back = {i for i in (*added, *states) if i in entries and entries[i].state == "retired"}
    report.images, report.revived = len(samples), len(back)
    report.prompts = len(added.keys() - entries.keys())
    report.unusable = len(report.problems) - report.duplicates
    return _publish_added(store, parent, RevisionChange(samples=samples, states=states), report)


def _is_among(sample: Sample, others: Sequence[Sample]) -> bool:
    return any((o.image_sha256, dict(o.files)) == (sample.image_sha256, dict(sample.files)) for o in others)


def _publish_added(store: DatasetStore, parent: Revision, change: RevisionChange, report: EditReport) -> EditReport:
    if not (change.prompts or change.samples or change.states):
        listed = f"\n{first_lines(report.problems)}" if report.problems else ""
        raise StoreError(
            f"There is nothing to add: {report.duplicates} are in revision {parent.number} already, {report.held_out}"
            f" are held out and {report.unusable} cannot be used. Give at least one that is new.{listed}"
        )
    keys = [prompt.id for prompt in change.prompts] + [sample.key for sample in change.samples]
    return _publish(store, parent, ADD, change, [*keys, *change.states], report)


# ---- retire


def ids_of(revision: Revision, names: Iterable[str]) -> list[str]:
    """Find the prompts that are meant by ids of prompts or keys of samples.

    Args:
        revision: Where they are looked for.
        names: A key means the whole prompt, with all its samples.

    Raises:
        StoreError: If one is unknown; all such names are counted and some named.
    """
    entries = revision.state.entries
    owners = {sample.key: entry.prompt.id for entry in entries.values() for sample in entry.samples}
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in entries and name not in owners]
    if unknown:
        near = [name for name in (*entries, *owners) if name.startswith(unknown[0])]
        raise StoreError(
            f"{len(unknown)} of {len(names)} ids are not in revision {revision.number}: {_listed(unknown)}. Allowed are"
            " ids of prompts and keys of samples, whole, as `evolvedirector data keys` prints them."
            + (f" Did you mean '{near[0]}'?" if near else " Nothing was retired; correct them and give it again.")
        )
    return list(dict.fromkeys(name if name in entries else owners[name] for name in names))


def ids_of_texts(revision: Revision, prompts: Iterable[Prompt]) -> list[str]:
    """Find the prompts that have these texts (up to case, spaces and articles).

    Raises:
        StoreError: If one is unknown; all such texts are counted and some named.
    """
    wanted = {prompt.id: prompt.text for prompt in prompts}
    unknown = [text for prompt_id, text in wanted.items() if prompt_id not in revision.state.entries]
    if unknown:
        raise StoreError(
            f"{len(unknown)} of {len(wanted)} prompts are not in revision {revision.number}: {_listed(unknown)}. Only"
            " what is there can be retired. Nothing was retired; take them out of the file and give it again."
        )
    return list(wanted)


def ids_of_skill(revision: Revision, skill: str) -> list[str]:
    """List the prompts of a skill.

    Raises:
        StoreError: If there is no such skill; the message names those that there are.
    """
    entries = revision.state.entries.values()
    found = [entry.prompt.id for entry in entries if entry.prompt.skill == skill]
    if not found:
        skills = sorted({entry.prompt.skill for entry in entries})
        raise StoreError(
            f"Revision {revision.number} has no prompt of the skill '{skill}'. Its skills are {_listed(skills)}."
            " Nothing was retired; name one of them."
        )
    return found


def retire(store: DatasetStore, names: Iterable[str]) -> EditReport:
    """Take prompts out of training; their images stay on disk, and adding them again brings them back.

    Args:
        store: An open root with a revision.
        names: Ids of prompts, or keys of samples, each of which means its prompt with all its samples.

    Raises:
        StoreError: If one is unknown, all of them are retired already, or nothing would be left to train on or to buy;
            nothing is published then.
    """
    parent, report = newest(store), EditReport()
    entries = parent.state.entries
    chosen = ids_of(parent, names)
    states: dict[str, PromptState] = {i: "retired" for i in chosen if entries[i].state != "retired"}
    report.duplicates = len(chosen) - len(states)
    if not states:
        raise StoreError(
            f"There is nothing to retire: {report.duplicates} of {len(chosen)} prompts are retired already in revision"
            f" {parent.number}. Name others."
        )
    if all(entry.state == "retired" or i in states for i, entry in entries.items()):
        raise StoreError(
            f"That would retire the last {len(states)} prompts of revision {parent.number}. At least one must stay to"
            " train on or to buy. Add others first, or make a new root."
        )
    report.prompts = len(states)
    report.images = sum(len(entries[i].samples) for i in states if entries[i].state in _TRAINED)
    return _publish(store, parent, RETIRE, RevisionChange(states=states), list(states), report)


# ---- list


class LiveSample(NamedTuple):
    """One sample that a revision trains on, and where it lies."""

    key: str
    """Its `__key__` in the tar."""
    shard: str
    """The tar, below the root: `shards/r0002-0123456789ab.tar`."""
    prompt: str
    prompt_id: str
    skill: str
    state: PromptState
    origin: str
    parent: str
    """Id of the prompt it was written from; empty where there is none."""
    teacher: str
    variant: str
    width_px: int
    height_px: int


def revision_of(root: str | Path, revision_sha: str | None = None) -> Revision:
    """Read a revision, without a lock.

    Args:
        root: The dataset root.
        revision_sha: At least 6 characters of it. None: the newest.

    Raises:
        StoreError: If there is no such root or revision.
    """
    check_format(Path(root))
    files = RevisionFiles(Path(root))
    sha = files.resolve(revision_sha) if revision_sha is not None else files.current()
    if sha is None:
        raise _no_revision(Path(root))
    return files.load(sha)


def live_samples(revision: Revision) -> Iterator[LiveSample]:
    """List what a revision trains on, live and mastered, in the order of entry."""
    for entry in revision.state.entries.values():
        if entry.state not in _TRAINED:
            continue
        for sample in entry.samples:
            yield _live_sample(entry, sample, revision)


def _live_sample(entry: PromptEntry, sample: Sample, revision: Revision) -> LiveSample:
    prompt, place = entry.prompt, revision.places[sample.key]
    return LiveSample(
        key=sample.key,
        shard=_tar(place.shard),
        prompt=prompt.text,
        prompt_id=prompt.id,
        skill=prompt.skill,
        state=entry.state,
        origin=prompt.origin,
        parent=prompt.parent_id or "",
        teacher=sample.teacher,
        variant=sample.variant,
        width_px=place.width_px,
        height_px=place.height_px,
    )


def left_out_samples(root: str | Path, revision: Revision) -> Iterator[str]:
    """List what lies in the tars of samples and a revision does not train on, as `shards/NAME.tar/KEY`.

    That is what was retired or replaced, and what another branch of revisions holds: the list of exclusions for loaders
    that read whole tars.

    Args:
        root: The dataset root.
        revision: One of its revisions.

    Raises:
        StoreError: If the index of a tar cannot be read.
    """
    live = {(sample.shard, sample.key) for sample in live_samples(revision)}
    for path in sorted((Path(root) / "shards").glob("r*.index")):
        shard = _tar(path.stem)
        keys = dict.fromkeys(open_index(path)[0]["key"].tolist())
        yield from (f"{shard}/{key.decode()}" for key in keys if (shard, key.decode()) not in live)


def edits_since(root: str | Path, revision_sha: str) -> list[tuple[int, str, str]]:
    """List the edits between a revision and the newest one, oldest first: number, kind and sha of each.

    Args:
        root: The dataset root.
        revision_sha: Where a run stands. Where the newest revision does not come from it, there is nothing to list.
    """
    files = RevisionFiles(Path(root))
    found: list[tuple[int, str, str]] = []
    sha = files.current()
    while sha is not None and sha != revision_sha:
        body = files.body(sha)
        kind = body["round_id"].partition(":")[0]
        if kind in (ADD, RETIRE, COMPANION) and ":" in body["round_id"]:
            found.append((body["number"], kind, sha))
        sha = body["parent"]
    return found[::-1] if sha is not None else []


# ---- shared


def newest(store: DatasetStore) -> Revision:
    """Read the newest revision of an open root.

    Raises:
        StoreError: If there is none.
    """
    if (sha := store.current()) is None:
        raise _no_revision(store.root)
    return store.revision(sha)


def _no_revision(root: Path) -> StoreError:
    return StoreError(
        f"The dataset root '{root}' has no revision yet, so there is nothing to list or to edit. Edits stand on one"
        f" that is there. Make the first one with `evolvedirector data import {root} --prompts FILE`."
    )


def _publish(
    store: DatasetStore,
    parent: Revision,
    kind: str,
    change: RevisionChange,
    names: Sequence[str],
    report: EditReport,
) -> EditReport:
    """Publish under a name that follows from the edit, so that one which was cut off can be given again."""
    parent_sha = parent.state.revision_sha
    report.revision_sha = store.publish(parent_sha, f"{kind}:{digest(kind, *names, length=12)}", change)
    report.number = parent.number + 1
    return report


def _tar(shard: str) -> str:
    return f"shards/{shard}.tar"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(f"'{name}'" for name in names[:_MAX_LISTED]) + more
