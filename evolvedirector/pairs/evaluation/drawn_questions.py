"""Questions about drawn subjects: whatever is asked, the exact answer is known to the pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from PIL import Image, ImageFilter

from evolvedirector.errors import UserError
from evolvedirector.pairs.drawn.cut_outs import CutOuts
from evolvedirector.pairs.drawn.drawn_draft import drawn
from evolvedirector.pairs.drawn.drawn_prompts import DrawnPrompts
from evolvedirector.pairs.drawn.drawn_subjects import DrawnSubjects, SubjectSplit, concepts_of
from evolvedirector.pairs.evaluation.questions import (
    COPY,
    NEAREST,
    PASTED,
    TARGET,
    UNTOUCHED,
    SubjectQuestion,
    prompt_about,
)
from evolvedirector.pairs.pair_records import MASK, REFERENCE, SOURCE, ChangeKind, PairRequest, Subject
from evolvedirector.pairs.pair_work import editing_source
from evolvedirector.pairs.pictures import box_file, mask_file, picture_file
from evolvedirector.records import FileRef, Prompt, digest, seed_of

_NEAR_PX = 24


class DrawnQuestions:
    """Ask for drawn subjects with one change each: place, tint, texture or style, in words that pairs are trained on.

    It is a source of held-out prompts, too: `held_out` of a datamodule then brings references with each prompt.
    """

    def __init__(
        self,
        world: CutOuts,
        split: SubjectSplit = "held_out",
        subjects: int = 60,
        kinds: list[ChangeKind] | None = None,
        looks: list[str] | None = None,
        image_size_px: int = 48,
        edits: bool = True,
        nearest_among: int | None = 200,
        seed: int = 0,
    ) -> None:
        """Choose what is asked.

        Args:
            world: Draws subjects and targets.
            split: `held_out`: concepts that `DrawnSubjects(split: train)` never shows; `train`: those that it does.
            subjects: How many concepts, each in one art set by lot; fewer where there are no more.
            kinds: Of change, one question of each about each subject. None: place, tint, texture and style.
            looks: Art sets of the subjects. None: all of the world.
            image_size_px: Side of all pictures.
            edits: Ask for each change as an edit, too; its mask is the outline of the exact target, a pixel wider.
            nearest_among: Training concepts, by lot, among which the nearest one is looked for. None: all.
            seed: Of the choice of subjects, and of the changes.

        Raises:
            UserError: A number is out of range.
        """
        if min(subjects, 2 if nearest_among is None else nearest_among) < 1 or not 16 <= image_size_px <= 4096:
            raise UserError(
                f"subjects is {subjects}, nearest_among {nearest_among} and image_size_px {image_size_px}. Allowed are"
                " 1 or more, and a side of 16 to 4096. Write `subjects: 60, image_size_px: 48`, say."
            )
        self.world, self.split, self.subjects = world, split, subjects
        self.kinds: tuple[ChangeKind, ...] = tuple(kinds or ("place", "tint", "texture", "style"))
        self.looks, self.image_size_px, self.edits, self.seed = tuple(looks or world.looks), image_size_px, edits, seed
        self.nearest_among = nearest_among

    @property
    def fingerprint(self) -> str:
        """Name the world and what is asked of it."""
        chosen = (self.split, self.subjects, self.image_size_px, self.edits, self.nearest_among or 0, self.seed)
        return f"drawn questions 1 {self.world.fingerprint} {digest(*chosen, *self.kinds, '|', *self.looks)}"

    def questions(self) -> Sequence[SubjectQuestion]:
        """List them, subject by subject."""
        return self._questions

    def prompts(self) -> Sequence[Prompt]:
        """List their texts."""
        return [question.prompt for question in self._questions]

    def files(self) -> Mapping[str, Mapping[str, FileRef]]:
        """Return the references of each prompt, by its id."""
        return {question.prompt.id: question.references for question in self._questions}

    def rivals(self, question: SubjectQuestion) -> Sequence[np.ndarray]:
        """Draw the exact target of every chosen subject with the change of a question, its own first."""
        own = question.about.subject.name
        others = [subject for subject in self._chosen if subject.name != own]
        return [self._target(question.about, subject)[0] for subject in (question.about.subject, *others)]

    @cached_property
    def _source(self) -> DrawnSubjects:
        return DrawnSubjects(self.world, list(self.looks), split=self.split)

    @cached_property
    def _chosen(self) -> list[Subject]:
        """Choose concepts by lot, and one art set of each."""
        by_concept: dict[str, list[Subject]] = {}
        for subject in self._source.subjects():
            by_concept.setdefault(subject.group, []).append(subject)
        names = sorted(by_concept, key=lambda name: seed_of("question subject", self.seed, name))[: self.subjects]
        return [
            by_concept[name][seed_of("question art set", self.seed, name) % len(by_concept[name])] for name in names
        ]

    @cached_property
    def _questions(self) -> list[SubjectQuestion]:
        asked = [
            PairRequest(
                digest("question", self.seed, subject.name, kind),
                subject,
                seed_of("question", self.seed, subject.name, kind),
                self.image_size_px,
                self.image_size_px,
                kind,
            )
            for subject in self._chosen
            for kind in self.kinds
        ]
        loaded = {reply.request_id: reply.files for reply in self._source.load(asked)}
        asked = [replace(request, files=loaded[request.request_id]) for request in asked]
        writer = DrawnPrompts(list(self.world.looks))
        written = {reply.request_id: dict(reply.words) for reply in writer.write(asked) if reply.status == "done"}
        return [
            self._question(replace(request, prompt=words.pop("prompt"), change=words))
            for request in asked
            if (words := written.get(request.request_id)) is not None
        ]

    def _question(self, about: PairRequest) -> SubjectQuestion:
        pixels, mask = self._target(about, about.subject)
        kept = {name: value for name, value in about.change.items() if name in ("place", "background")}
        unchanged, _ = drawn(self.world, replace(about, change=kept), about.subject.look)
        ends = {TARGET: pixels, PASTED: unchanged}
        if (near := self._nearest(about.subject)) is not None:
            ends[NEAREST] = self._target(about, near)[0]
        files = {name: picture_file(picture) for name, picture in ends.items()} | {COPY: about.files[REFERENCE]}
        edit = None
        if self.edits:
            # a pixel wider: the rim of a subject is half of it, and would tell where one stood
            anew = np.asarray(Image.fromarray(mask).filter(ImageFilter.MaxFilter(3)))
            edit = {SOURCE: picture_file(editing_source(pixels, unchanged, anew)), MASK: mask_file(anew)}
            files[UNTOUCHED] = edit[SOURCE]
        prompt = prompt_about(about.subject, about.prompt, about.kind or "", self.image_size_px)
        return SubjectQuestion(prompt, about, about.files, box_file(mask), edit, files, mask_file(mask))

    def _target(self, about: PairRequest, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
        look = about.change.get("style", subject.look)
        return drawn(self.world, replace(about, subject=subject), look)

    def _nearest(self, subject: Subject) -> Subject | None:
        """Find the training concept whose cut-out is nearest in pixels, in the same art set."""
        names, pictures = self._of_training(subject.look)
        if not names:
            return None
        distances = ((pictures - self._small(subject.group, subject.look)) ** 2).sum(axis=(1, 2, 3))
        ranked = [names[place] for place in np.argsort(distances) if names[place] != subject.group]
        if not ranked:
            return None
        near = ranked[0]
        return Subject(f"{near}|{subject.look}", self.world.category(near), near, subject.look)

    def _of_training(self, look: str) -> tuple[list[str], np.ndarray]:
        if look not in self._training:
            names = sorted(concepts_of(self.world, "train"), key=lambda name: seed_of("near", name))
            names = names[: self.nearest_among]
            small = [self._small(name, look) for name in names]
            self._training[look] = names, np.stack(small) if small else np.empty(0)
        return self._training[look]

    @cached_property
    def _training(self) -> dict[str, tuple[list[str], np.ndarray]]:
        return {}

    def _small(self, concept: str, look: str) -> np.ndarray:
        cut = np.asarray(self.world.cut_out(concept, look, _NEAR_PX), np.float32) / 255
        return np.asarray(cut[..., :3] * cut[..., 3:] + 1 - cut[..., 3:])
