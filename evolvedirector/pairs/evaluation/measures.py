"""How near a picture comes to its subject and to its text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.pairs.change_reader import ChangeReader
from evolvedirector.pairs.evaluation.questions import TARGET, SubjectQuestion
from evolvedirector.pairs.pair_records import IMAGE, MASK, REFERENCE, REFERENCE_MASK, PairRequest
from evolvedirector.pairs.patch_encoder import PatchEncoder, cosine, cosines
from evolvedirector.pairs.pictures import cut_square, mask_of, pixels_of
from evolvedirector.pairs.stages import MaskStage
from evolvedirector.records import FileRef, ImageAndPrompt
from evolvedirector.records.part import Part, close_parts, verify_parts
from evolvedirector.rewards.reward import Reward

RIGHT_FROM: Mapping[str, float] = {"place": 0.5, "tint": 0.5, "texture": 0.2, "style": 0.0, "view": 0.0}
"""Least score `change` of `DrawnReader` that counts as right: so are .98 of exact targets of emoji, of style .5."""
IDENTITY, TO_TARGET, FOUND, FOUND_BY_FEATURES, ALL, TEXT, DIVERSITY, ERROR_OUTSIDE, LEFT_OUTSIDE = (
    "identity",
    "to target",
    "retrieval",
    "retrieval by features",
    "all",
    "text",
    "diversity",
    "error outside",
    "left outside",
)
"""Figures of a picture."""
_BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One picture that answers a question."""

    key: str
    question: SubjectQuestion
    file: FileRef
    """With its content."""


class SubjectMeasures:
    """Measure pictures of subjects: each is cut out by its outline and compared with the subject, cut out likewise.

    Args:
        identity: Encoder of patches.
        mask: Finds the subject in a picture; none is told where it stands.
        reader: Reads whether the change was made. None: not read.
        text: How well picture and text fit. None: what the reader says of it.
        side_px: Side of the squares that are compared.
        right_from: Least score of a change that was made, by kind; of other kinds .5.
    """

    def __init__(
        self,
        identity: PatchEncoder,
        mask: MaskStage,
        reader: ChangeReader | None,
        text: Reward | None,
        side_px: int,
        right_from: Mapping[str, float],
    ) -> None:
        if not 16 <= side_px <= 2048:
            raise UserError(f"side_px is {side_px}. Allowed are 16 to 2048. Write 224 for a DINO-type encoder.")
        self.identity, self.mask, self.reader, self.text = identity, mask, reader, text
        self.side_px, self.right_from = side_px, dict(right_from)
        self._known: dict[str, np.ndarray] = {}  # features of references and targets, by the sha256 of their files

    def parts(self) -> dict[str, Part]:
        """Name who measures."""
        named: dict[str, Part | None] = {"identity": self.identity, "mask": self.mask}
        named |= {"reader": self.reader, "text": self.text}
        return {name: part for name, part in named.items() if part is not None}

    def verify(self) -> None:
        """See that all of them would work."""
        verify_parts(*self.parts().values())

    def close(self) -> None:
        """Let go of the models."""
        self._known.clear()
        close_parts(*self.parts().values())

    def measure(
        self,
        seen: Sequence[Seen],
        subjects: Sequence[SubjectQuestion],
        rivals: Callable[[SubjectQuestion], Sequence[np.ndarray]],
    ) -> dict[str, dict[str, float]]:
        """Return the figures of each picture, by its key.

        Args:
            seen: Pictures.
            subjects: One question of each subject, among which the true one is looked for.
            rivals: Gives the exact targets of a question for every subject, its own first, or none.
        """
        found: dict[str, dict[str, float]] = {}
        for start in range(0, len(seen), _BATCH):
            found |= self._batch(seen[start : start + _BATCH], subjects)
        by_question: dict[str, list[Seen]] = {}
        for one in seen:
            by_question.setdefault(one.question.prompt.id, []).append(one)
        for pictures in by_question.values():
            targets = rivals(pictures[0].question)
            for one, is_first in zip(pictures, nearest_is_first(pictures, targets), strict=False):
                found[one.key][FOUND] = float(is_first)
        return found

    def whole(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return features of whole pictures, relative to an empty one.

        Args:
            pictures: uint8 [height, width, 3], of one size.
        """
        return _relative(self.identity, list(pictures))

    def _batch(self, seen: Sequence[Seen], subjects: Sequence[SubjectQuestion]) -> dict[str, dict[str, float]]:
        asked = [replace(one.question.about, request_id=one.key, files={IMAGE: one.file}) for one in seen]
        masks = {
            reply.request_id: reply.files[MASK]
            for reply in self.mask.mask(asked)
            if reply.status == "done" and mask_of(reply.files[MASK]).any()
        }
        # where nothing stands out there is no subject: not alike, and no change was made
        found: dict[str, dict[str, float]] = {one.key: self._nothing(one.question) for one in seen}
        kept = [one for one in seen if one.key in masks]
        if kept:
            squares = [cut_square(pixels_of(one.file), mask_of(masks[one.key]), self.side_px)[0] for one in kept]
            features = _relative(self.identity, squares)
            of_subjects = np.stack([self._reference(question).ravel() for question in subjects])
            names = [question.about.subject.name for question in subjects]
            near = cosines(features.reshape(len(kept), -1), of_subjects).argmax(axis=1)
            for number, one in enumerate(kept):
                found[one.key] |= self._alike(one.question, features[number])
                found[one.key][FOUND_BY_FEATURES] = float(names[near[number]] == one.question.about.subject.name)
            self._read_changes(found, {one.key: one for one in kept}, asked, masks)
        if self.text is not None:
            items = [ImageAndPrompt(one.key, one.file.content or b"", one.question.prompt.text) for one in seen]
            for score in self.text.score(items):
                found[score.item_id][TEXT] = float(score.value)
        return {key: {name: v for name, v in row.items() if not math.isnan(v)} for key, row in found.items()}

    def _nothing(self, question: SubjectQuestion) -> dict[str, float]:
        row = {IDENTITY: 0.0, FOUND_BY_FEATURES: 0.0}
        row |= {TO_TARGET: 0.0} if TARGET in question.ends else {}
        return row | ({ALL: 0.0} if self.reader is not None else {})

    def _alike(self, question: SubjectQuestion, features: np.ndarray) -> dict[str, float]:
        roles = [role for role in question.references if f"{role}_mask" in question.references]
        known = [self._features(question.references[r], question.references[f"{r}_mask"]) for r in roles]
        row = {IDENTITY: float(np.mean([cosine(features, reference) for reference in known]))}
        if question.target_mask is not None:
            row[TO_TARGET] = cosine(features, self._target(question))
        return row

    def _read_changes(
        self,
        found: dict[str, dict[str, float]],
        kept: Mapping[str, Seen],
        asked: Sequence[PairRequest],
        masks: Mapping[str, FileRef],
    ) -> None:
        if self.reader is None:
            return
        shown = []
        for request in asked:
            if (one := kept.get(request.request_id)) is not None:
                files = {**one.question.about.files, IMAGE: one.file, MASK: masks[one.key]}
                shown.append(replace(request, files=files))
        for reply in self.reader.read(shown):
            kind = kept[reply.request_id].question.prompt.skill
            if reply.status != "done":
                found[reply.request_id].pop(ALL)  # nobody could read it: no figure
                continue
            found[reply.request_id][ALL] = float(reply.scores["change"] >= self.right_from.get(kind, 0.5))
            if "text" in reply.scores:
                found[reply.request_id][TEXT] = reply.scores["text"]

    def _target(self, question: SubjectQuestion) -> np.ndarray:
        """Cut the target out by the outline that the mask stage finds, as every picture is."""
        target = question.ends[TARGET]
        if target.sha256 not in self._known:
            (reply,) = self.mask.mask([replace(question.about, files={IMAGE: target})])
            found = reply.files.get(MASK)
            own = question.target_mask if found is None or not mask_of(found).any() else found
            assert own is not None, "there is a target"
            return self._features(target, own)
        return self._known[target.sha256]

    def _reference(self, question: SubjectQuestion) -> np.ndarray:
        return self._features(question.references[REFERENCE], question.references[REFERENCE_MASK])

    def _features(self, picture: FileRef, mask: FileRef) -> np.ndarray:
        if picture.sha256 not in self._known:
            square, _ = cut_square(pixels_of(picture), mask_of(mask), self.side_px)
            self._known[picture.sha256] = _relative(self.identity, [square])[0]
        return self._known[picture.sha256]


def nearest_is_first(seen: Sequence[Seen], targets: Sequence[np.ndarray]) -> list[bool]:
    """Say of each picture whether the first target is nearer to it, in pixels, than any other; nothing without targets.

    Args:
        seen: Pictures of one question.
        targets: uint8 [height, width, 3] each, the own one first.
    """
    if len(targets) < 2:
        return []
    rows = np.stack(targets).reshape(len(targets), -1).astype(np.float32)
    found = []
    for one in seen:
        pixels = pixels_of(one.file)
        if pixels.shape != targets[0].shape:
            found.append(False)
            continue
        distances = ((rows - pixels.reshape(-1).astype(np.float32)) ** 2).sum(axis=1)
        found.append(bool(distances[0] < distances[1:].min()))
    return found


def spread(features: np.ndarray) -> float:
    """Return the mean distance of pictures of one text, 1 - cosine over all pairs.

    Args:
        features: float [pictures, ...], two or more.
    """
    pairs = [(a, b) for place, a in enumerate(features) for b in features[place + 1 :]]
    return float(np.mean([1 - cosine(a, b) for a, b in pairs]))


def left_outside(drawn: FileRef, source: FileRef, mask: FileRef) -> float:
    """Return the largest |drawn - source| outside of an edit's mask, of 255; 0 is what compositing promises.

    Args:
        drawn: The finished edit.
        source: The picture before.
        mask: White where it was drawn anew.
    """
    difference = np.abs(pixels_of(drawn).astype(int) - pixels_of(source).astype(int)).max(axis=2)
    outside = difference[~mask_of(mask)]
    return float(outside.max()) if outside.size else 0.0


def _relative(encoder: PatchEncoder, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Encode pictures relative to the empty one."""
    features = encoder.encode([*pictures, np.full_like(pictures[0], 255)])
    return np.asarray(features[:-1] - features[-1])
