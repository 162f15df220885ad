"""A reward that takes a picture apart into paint and ground before it measures something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.worlds.shapes.paint import Paint, paint_of
from evolvedirector.worlds.shapes.picture_scores import scores_of
from evolvedirector.worlds.shapes.world import World


class PaintReward:
    """Score a picture by a function of its paint; a subclass names the measure and what it is called.

    Args:
        world: whose colours count as paint.
    """

    name: ClassVar[str]
    """Of the measure, with its version."""

    def __init__(self, world: World = World()) -> None:  # noqa: B008 - frozen
        self.world = world

    @staticmethod
    def measure(paint: Paint) -> float:
        """Return what is measured: higher is better.

        Args:
            paint: the picture taken apart.
        """
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """Name the measure and the colours."""
        return f"{self.name}/{','.join(self.world.colours)}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item; nan for what is no image.

        Args:
            items: encoded images.
        """
        return scores_of(items, lambda image: type(self).measure(paint_of(image, self.world)))
