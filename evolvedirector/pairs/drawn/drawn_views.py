"""Views of an embedded world: every cut-out as it is, mirrored and turned, with exact alpha."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from evolvedirector.pairs.drawn.changes import VIEWS, turned
from evolvedirector.pairs.drawn.drawn_subjects import DrawnSubjects
from evolvedirector.pairs.key_ground import framed
from evolvedirector.pairs.view_source import ViewedObject
from evolvedirector.records.poses import Pose

VIEW_POSES = {
    "mirrored": Pose(mirrored=True),
    "lying on its left side": Pose(roll_deg=90),
    "lying on its right side": Pose(roll_deg=270),
    "upside down": Pose(roll_deg=180),
}
"""What the words of `VIEWS` mean, against the picture as it is."""
_KEPT = 4096
"""Cut-outs that are kept; at 48 px some 40 MB."""


class DrawnViews:
    """Give each subject of an embedded world as an object with five views: as it is, mirrored, and turned three ways.

    Flat art has no other side, so these are all the views there are; each is exact to the pixel. The art sets of one
    concept are objects of one group, and are held out together.
    """

    def __init__(self, subjects: DrawnSubjects) -> None:
        """Choose the subjects.

        Args:
            subjects: Of an embedded world: concepts in art sets, and in tints where it says so.
        """
        self.subjects = subjects
        self._upright = lru_cache(_KEPT)(self._drawn)

    @property
    def fingerprint(self) -> str:
        """Name the subjects."""
        shown = f"{' '.join(self.subjects.looks)} {self.subjects.tints} {self.subjects.split}"
        return f"drawn views 2 {self.subjects.fingerprint} {shown}"

    def verify(self) -> None:
        """List the subjects: a world whose pictures are missing says so."""
        _ = self._objects

    def objects(self) -> Sequence[ViewedObject]:
        """List the subjects."""
        return self._objects

    def view(self, viewed: ViewedObject, number: int, side_px: int) -> np.ndarray:
        """Return one view, uint8 RGBA [side, side, 4].

        Args:
            viewed: Of `objects`.
            number: Of the view; 0 is the picture as it is.
            side_px: Wanted.
        """
        upright = self._upright(viewed.name, side_px)
        return turned(upright, list(VIEWS)[number - 1]) if number else upright

    @cached_property
    def _objects(self) -> list[ViewedObject]:
        poses = (Pose(), *(VIEW_POSES[view] for view in VIEWS))
        return [
            ViewedObject(subject.name, subject.category, subject.group, poses) for subject in self.subjects.subjects()
        ]

    def _drawn(self, name: str, side_px: int) -> np.ndarray:
        return framed(self.subjects.cut_out(name, max(4, side_px)), side_px)
