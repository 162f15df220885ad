"""Subjects of an embedded world: concepts in art sets, and in tints of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.pairs.drawn.changes import TINTS, scene, tinted
from evolvedirector.pairs.drawn.cut_outs import CutOuts
from evolvedirector.pairs.pair_records import REFERENCE, REFERENCE_MASK, PairReply, PairRequest, Subject
from evolvedirector.pairs.pictures import mask_file, picture_file
from evolvedirector.records import seed_of

SubjectSplit = Literal["all", "train", "held_out"]

_SHARE = 0.8
"""Side of the subject, of its reference picture."""
_HELD_OUT_OF = 5
"""One concept of so many is held out whole, in every art set and tint."""


class DrawnSubjects:
    """List each concept in each art set as a subject, and again in tints; its outline is exact.

    The subjects of one concept form a group, to be held out together.
    """

    def __init__(
        self, world: CutOuts, looks: list[str] | None = None, tints: int = 0, split: SubjectSplit = "all"
    ) -> None:
        """Choose the world.

        Args:
            world: Draws the cut-outs.
            looks: Art sets whose pictures become subjects. None: all of the world.
            tints: Further subjects of each picture, in so many of the six tints, 0 to 6.
            split: `held_out`: about a fifth of the concepts, the same whatever the world lists beside them; `train`:
                the others.

        Raises:
            UserError: An art set is unknown, or `tints` is out of range.
        """
        self.world, self.looks, self.tints, self.split = world, tuple(looks or world.looks), tints, split
        unknown = [look for look in self.looks if look not in world.looks]
        if unknown or not 0 <= tints <= len(TINTS):
            raise UserError(
                f"looks is {list(self.looks)} and tints is {tints}. Allowed are {', '.join(world.looks)} and 0 to"
                f" {len(TINTS)}. Write `looks: [{world.looks[0]}]`, say."
            )

    @property
    def fingerprint(self) -> str:
        """Name the world and how its subjects are shown."""
        return f"drawn subjects 1 {self.world.fingerprint}"

    def subjects(self) -> Sequence[Subject]:
        """List the subjects: all pictures as they are, concept by concept in turn of the art sets, then the tints."""
        concepts = concepts_of(self.world, self.split)
        return [
            Subject("|".join(filter(None, (concept, look, tint))), self.world.category(concept), concept, look)
            for tint in ("", *list(TINTS)[: self.tints])
            for look in self.looks
            for concept in concepts
        ]

    def cut_out(self, name: str, size_px: int) -> np.ndarray:
        """Draw a subject without a ground, uint8 RGBA [size, size, 4].

        Args:
            name: Of the subject.
            size_px: Of the tight square.
        """
        concept, look, tint = (*name.split("|"), "")[:3]
        cut = np.asarray(self.world.cut_out(concept, look, size_px))
        return tinted(cut, tint) if tint else cut

    def load(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield each subject on a pale background, with its outline."""
        for request in requests:
            side_px = min(request.width_px, request.height_px)
            cut = self.cut_out(request.subject.name, max(4, round(_SHARE * side_px)))
            level = 238 + seed_of("subject ground", request.subject.name) % 16
            picture, mask = scene(cut, (0.5, 0.5), (level, level, level), side_px)
            yield PairReply(
                request.request_id, files={REFERENCE: picture_file(picture), REFERENCE_MASK: mask_file(mask)}
            )


def concepts_of(world: CutOuts, split: SubjectSplit) -> list[str]:
    """List the concepts of a split, in the order of the world.

    Args:
        world: Draws them.
        split: Which ones.
    """
    wanted = {"all": (False, True), "train": (False,), "held_out": (True,)}[split]
    return [name for name in world.concepts() if (seed_of("held-out subject", name) % _HELD_OUT_OF == 0) in wanted]
