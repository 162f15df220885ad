"""One pass of pairs through all stages, and what becomes of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evolvedirector.pairs.duplicates import is_near, looks_of
from evolvedirector.pairs.masks import mask_problem, several_subjects
from evolvedirector.pairs.pair_book import PairRow
from evolvedirector.pairs.pair_records import (
    DRAFT,
    DRAFT_MASK,
    IMAGE,
    MASK,
    REFERENCE,
    REFERENCE_MASK,
    REFINED,
    SOURCE,
    ChangeKind,
    PairReply,
    PairRequest,
    PairUse,
    StageName,
    Subject,
)
from evolvedirector.pairs.pictures import box_file, mask_file, mask_of, picture_file, pixels_of, square_around
from evolvedirector.pairs.stage_run import StageRun
from evolvedirector.pairs.thresholds import Thresholds, cause_of
from evolvedirector.pairs.unchanged import Unchanged
from evolvedirector.records import FileRef, digest
from evolvedirector.records.part import Part
from evolvedirector.records.subject_roles import SUBJECT_BOX
from evolvedirector.store.codec import file_to_json


@dataclass
class PairWork:
    """A pair on its way: what is known of it so far."""

    pair_id: str
    subject: Subject
    kind: ChangeKind
    use: PairUse
    seed: int
    subject_id: str = ""
    prompt: str = ""
    change: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileRef] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    keys: dict[StageName, str] = field(default_factory=dict)
    """Under which the answer of each stage is remembered."""
    cause: str = ""
    reason: str = ""
    looks: str | None = None
    is_open: bool = False
    """A limit or an outage held it back: it meets its fate in a later build."""

    @property
    def goes_on(self) -> bool:
        """Whether the next stage is to be asked about it."""
        return not (self.cause or self.is_open)

    def reject(self, cause: str, reason: str) -> None:
        """Give it up."""
        self.cause, self.reason = cause, reason


@dataclass(frozen=True)
class PairPass:
    """Take pairs through the stages, all pairs through one stage before the next: a model is loaded once a pass.

    Args:
        run: Asks the stages.
        stages: By name; `view` only where there is one.
        size_px: Width and height of the pictures.
        thresholds: By kind of change.
        near_bits: Pictures of one subject whose hashes differ in no more bits are duplicates.
        several_share: See `SubjectPairBuilder`.
    """

    run: StageRun
    stages: Mapping[StageName, Part]
    size_px: tuple[int, int]
    thresholds: Thresholds
    near_bits: int
    several_share: float | None

    def take(self, works: Sequence[PairWork]) -> list[PairRow]:
        """Return what became of the pairs; those that are held back have no row."""
        self.begin(works)
        self._ask("draft", "draw", works, (REFERENCE, REFERENCE_MASK), self._take_draft)
        self._outlines([work for work in works if work.goes_on and DRAFT_MASK not in work.files])
        self._ask("refine", "refine", works, (REFERENCE, REFERENCE_MASK, DRAFT, DRAFT_MASK), self._take_image)
        of_view = [work for work in works if work.kind == "view"]
        self._ask("view", "turn", of_view, (REFERENCE, REFERENCE_MASK, IMAGE, DRAFT_MASK), self._take_view)
        self._measure("filter", works)
        self._decide([work for work in works if work.goes_on])
        return [_row(work, self.stages) for work in works if not work.is_open]

    def begin(self, works: Sequence[PairWork]) -> None:
        """Load the subjects and write what their pairs are to show."""
        self._subjects(works)
        self._ask("prompt", "write", works, (REFERENCE, REFERENCE_MASK), self._take_prompt)

    def look(self, works: Sequence[PairWork]) -> None:
        """Score pictures that somebody drew of the subjects, in `files`; one that fails has its cause and reason."""
        self._measure("look", works)
        for work in works:
            if work.goes_on:
                work.cause, work.reason = cause_of(work.scores, self.thresholds[work.kind])

    def _measure(self, stage: StageName, works: Sequence[PairWork]) -> None:
        self._ask("mask", "mask", works, (IMAGE, DRAFT_MASK), self._take_mask)
        roles = (REFERENCE, REFERENCE_MASK, DRAFT, IMAGE, MASK)
        self._ask(stage, "score", works, roles, lambda work, reply: work.scores.update(reply.scores))

    def _ask(
        self,
        stage: StageName,
        method: str,
        works: Sequence[PairWork],
        roles: Sequence[str],
        take: Callable[[PairWork, PairReply], None],
    ) -> None:
        asked = {self._key(stage, work, roles): work for work in works if work.goes_on}
        by_key: dict[str, list[PairWork]] = {}
        for work in works:
            if work.goes_on:
                by_key.setdefault(work.keys[stage], []).append(work)
        requests = {key: self._request(key, work, roles) for key, work in asked.items()}
        replies = self.run.answers(stage, self.stages[stage], method, requests) if requests else {}
        for key, sharing in by_key.items():
            for work in sharing:
                reply = replies.get(key)
                if reply is None:
                    work.is_open = True
                elif reply.status == "refused":
                    work.reject(stage, reply.reason)
                else:
                    work.notes.update({f"{stage}.{name}": text for name, text in reply.words.items() if name == "note"})
                    take(work, reply)

    def _key(self, stage: StageName, work: PairWork, roles: Sequence[str]) -> str:
        """Name a question by everything that the stage is told: other input, other question."""
        files = [part for role in roles if role in work.files for part in (role, work.files[role].sha256)]
        subject = (work.subject.name, work.subject.category, work.subject.look)
        words = [part for name in sorted(work.change) for part in (name, work.change[name])]
        told: tuple[str | int, ...] = (*subject, work.kind, work.seed, work.prompt, *self.size_px, *words, *files)
        work.keys[stage] = digest("pairs", stage, self.stages[stage].fingerprint, *told, length=32)
        return work.keys[stage]

    def _request(self, key: str, work: PairWork, roles: Sequence[str]) -> PairRequest:
        files = {role: work.files[role] for role in roles if role in work.files}
        return PairRequest(
            key, work.subject, work.seed, *self.size_px, work.kind, work.prompt, dict(work.change), files
        )

    def _subjects(self, works: Sequence[PairWork]) -> None:
        """Load each subject once, find the mask of those that came without, and refuse what cannot be used."""
        names = {work.subject.name: work.subject for work in works}
        source, masks = self.stages["subjects"], self.stages["mask"]
        keys = {digest("pairs", "subjects", source.fingerprint, name, length=32): name for name in names}
        asked = {k: PairRequest(k, names[name], 0, *self.size_px) for k, name in keys.items()}
        loaded = self.run.answers("subjects", source, "load", asked)
        found = {keys[key]: reply for key, reply in loaded.items()}
        bare = {}
        for name, reply in found.items():
            if reply.status == "done" and REFERENCE_MASK not in reply.files:
                reference = reply.files[REFERENCE]
                told = (masks.fingerprint, names[name].name, names[name].category, reference.sha256)
                key = digest("pairs", "mask", *told, length=32)
                bare[key] = name
                asked[key] = PairRequest(key, names[name], 0, *self.size_px, files={IMAGE: reference})
        masked = self.run.answers("mask", masks, "mask", {key: asked[key] for key in bare}) if bare else {}
        of_name = {bare[key]: reply for key, reply in masked.items()}
        for name, subject in names.items():
            of_subject = [work for work in works if work.subject.name == name]
            self._take_subject(subject, of_subject, found.get(name), of_name.get(name))
        self._refuse_twins(works)

    def _take_subject(
        self, subject: Subject, works: Sequence[PairWork], loaded: PairReply | None, masked: PairReply | None
    ) -> None:
        files = {**(loaded.files if loaded else {})}
        problem = loaded.reason if loaded is not None and loaded.status == "refused" else ""
        if masked is not None and masked.status == "refused":
            problem = masked.reason
        elif masked is not None:
            files[REFERENCE_MASK] = masked.files[MASK]
        is_open = not problem and (loaded is None or REFERENCE_MASK not in files)
        if not problem and not is_open:
            problem = self._subject_problem(subject, files)
            files = files if problem else self._squared(files)
        for work in works:
            work.is_open = is_open
            work.files.update({role: files[role] for role in (REFERENCE, REFERENCE_MASK) if role in files})
            if problem:
                work.reject("subject", problem)
            elif not is_open:
                work.subject_id = digest("subject", files[REFERENCE].sha256, files[REFERENCE_MASK].sha256)

    def _squared(self, files: Mapping[str, FileRef]) -> dict[str, FileRef]:
        """Cut a long picture around its subject: training cuts squares from the middle, and would cut it off."""
        size = files[REFERENCE]
        if size.width_px == size.height_px:
            return dict(files)
        picture, mask = square_around(
            pixels_of(self._read(files[REFERENCE])), mask_of(self._read(files[REFERENCE_MASK]))
        )
        kept = self.run.blobs.put_files([picture_file(picture), mask_file(mask)])
        return dict(zip((REFERENCE, REFERENCE_MASK), kept, strict=True))

    def _subject_problem(self, subject: Subject, files: Mapping[str, FileRef]) -> str:
        what = f"the subject '{subject.name}'"
        mask = mask_of(self._read(files[REFERENCE_MASK]))
        problem = mask_problem(mask, pixels_of(self._read(files[REFERENCE])), what)
        if not problem and self.several_share is not None and several_subjects(mask, self.several_share):
            return f"The picture of {what} shows several: its mask has two areas of like size, one is needed."
        return problem

    def _refuse_twins(self, works: Sequence[PairWork]) -> None:
        """Refuse subjects whose picture another name has already, in this pass or in an earlier one."""
        ids = list(dict.fromkeys(work.subject_id for work in works if work.goes_on))
        owners = self.run.book.names_of(ids)
        for work in works:
            if work.goes_on and owners.setdefault(work.subject_id, work.subject.name) != work.subject.name:
                first = owners[work.subject_id]
                work.reject("duplicate", f"The subject '{work.subject.name}' has the same picture as '{first}'.")
                work.subject_id = ""

    def _take_prompt(self, work: PairWork, reply: PairReply) -> None:
        work.prompt = reply.words.get("prompt", "")
        work.change = {name: text for name, text in reply.words.items() if name not in ("prompt", "note")}
        if not work.prompt:
            work.reject("prompt", "The prompt stage wrote no prompt.")

    def _take_draft(self, work: PairWork, reply: PairReply) -> None:
        work.files[DRAFT] = reply.files[IMAGE]
        if MASK in reply.files:
            work.files[DRAFT_MASK] = reply.files[MASK]

    def _outlines(self, works: Sequence[PairWork]) -> None:
        """Find the subject in drafts that came without outline, so that a refiner leaves alone what is around it."""
        if isinstance(self.stages["refine"], Unchanged):
            return  # the mask stage sees the same picture after it
        for work in works:
            work.files[IMAGE] = work.files[DRAFT]
        self._ask("mask", "mask", works, (IMAGE,), self._take_outline)
        for work in works:
            del work.files[IMAGE]

    def _take_outline(self, work: PairWork, reply: PairReply) -> None:
        draft, mask = (self._read(file) for file in (work.files[DRAFT], reply.files[MASK]))
        if problem := mask_problem(mask_of(mask), pixels_of(draft), f"the draft of '{work.subject.name}'"):
            work.reject("mask", problem)
        work.files[DRAFT_MASK] = reply.files[MASK]

    def _take_image(self, work: PairWork, reply: PairReply) -> None:
        work.files[REFINED] = work.files[IMAGE] = reply.files[IMAGE]

    def _take_view(self, work: PairWork, reply: PairReply) -> None:
        work.files[IMAGE] = reply.files[IMAGE]
        work.files.pop(DRAFT_MASK, None)
        if MASK in reply.files:
            work.files[DRAFT_MASK] = reply.files[MASK]

    def _take_mask(self, work: PairWork, reply: PairReply) -> None:
        mask = self._read(reply.files[MASK])
        image = pixels_of(self._read(work.files[IMAGE]))
        work.looks = looks_of(image)
        if problem := mask_problem(mask_of(mask), image, f"the picture of '{work.subject.name}'"):
            work.reject("mask", problem)
        work.files[MASK] = reply.files[MASK]

    def _decide(self, works: Sequence[PairWork]) -> None:
        """Apply the thresholds, drop what is there already, and make the files that the rest is recorded with."""
        book = self.run.book
        known_images = book.images([work.files[IMAGE].sha256 for work in works])
        known_looks = book.looks_of(list({work.subject_id for work in works}))
        for work in works:
            cause, reason = cause_of(work.scores, self.thresholds[work.kind])
            image, seen = work.files[IMAGE].sha256, known_looks.setdefault(work.subject_id, [])
            if cause:
                work.reject(cause, reason)
            elif image in known_images or is_near(work.looks or "0", seen, self.near_bits):
                work.reject("duplicate", "A kept pair of this subject has this picture, or nearly this one.")
            else:
                known_images.add(image)
                seen.append(work.looks or "0")
        kept = [work for work in works if work.goes_on]
        made = [(work, role, file) for work in kept for role, file in self._last_files(work).items()]
        durable = self.run.blobs.put_files([file for _, _, file in made])
        for (work, role, _), file in zip(made, durable, strict=True):
            work.files[role] = file

    def _last_files(self, work: PairWork) -> dict[str, FileRef]:
        """Make the source of an edit, and the box of the subject where training will not crop it away."""
        mask = mask_of(self._read(work.files[MASK]))
        files = {SUBJECT_BOX: box_file(mask)} if mask.shape[0] == mask.shape[1] else {}
        return files | ({SOURCE: self._source(work)} if work.use == "editing" else {})

    def _source(self, work: PairWork) -> FileRef:
        image, draft, mask = (self._read(work.files[role]) for role in (IMAGE, DRAFT, MASK))
        return picture_file(editing_source(pixels_of(image), pixels_of(draft), mask_of(mask)))

    def _read(self, file: FileRef) -> FileRef:
        return replace(file, content=self.run.blobs.get(file.sha256))


def editing_source(image: np.ndarray, draft: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Make the picture that an edit starts from: the result outside of the mask, another thing inside.

    Inside stands the draft, which lacks the subject's detail; where it is the result itself, or of another size, the
    mean colour around the mask. The paper does not say how editing pairs are composed: this is our choice.

    Args:
        image: uint8 [height, width, 3].
        draft: uint8 [height, width, 3].
        mask: bool [height, width].
    """
    source = image.copy()
    if draft.shape == image.shape and (draft[mask] != image[mask]).any():
        source[mask] = draft[mask]
    else:
        around = image[~mask] if (~mask).any() else image.reshape(-1, 3)
        source[mask] = around.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    return source


def _row(work: PairWork, stages: Mapping[StageName, Part]) -> PairRow:
    body: dict[str, Any] = {
        "subject": {
            "name": work.subject.name,
            "id": work.subject_id,
            "category": work.subject.category,
            "group": work.subject.group,
            "look": work.subject.look,
        },
        "kind": work.kind,
        "use": work.use,
        "prompt": work.prompt,
        "change": work.change,
        "seed": work.seed,
        "scores": {name: round(value, 6) for name, value in work.scores.items() if value == value},
        "stages": {stage: stages[stage].fingerprint for stage in work.keys},
        "notes": work.notes,
        "reason": work.reason,
        "files": {role: file_to_json(file) for role, file in work.files.items()},
    }
    status = "rejected" if work.cause else "kept"
    image = work.files.get(IMAGE)
    sha256 = None if image is None else image.sha256
    return PairRow(work.pair_id, work.subject_id, work.kind, work.use, status, work.cause, sha256, work.looks, body)
