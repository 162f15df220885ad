"""The seam behind which every reward stands: image (and prompt) to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Reward(Protocol):
    """Score images: higher is better. Scores of one reward are comparable with each other only."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return one float per image; nan where an image could not be scored.

        Args:
            images: uint8, [n 3 h w].
            prompts: One per image.
        """
        ...
