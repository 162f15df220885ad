"""The seam behind which every reward stands: image (and prompt) to score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.records import ImageAndPrompt, Score


@runtime_checkable
class Reward(Protocol):
    """Score images: higher is better. Scores of one reward are comparable with each other only.

    An image that cannot be scored has the value nan and a reason; it is never an exception. A reward that holds memory
    may have a `close()`, which is called whenever a round has scored all it wanted.
    """

    @property
    def fingerprint(self) -> str:
        """Name the model, its revision and every parameter that changes its scores; part of every cache key."""
        ...

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item as each is found, in any order.

        Args:
            items: Encoded images with their prompts.
        """
        ...
