"""The seam behind which every reward stands: image (and prompt) to score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from evolvedirector.records import ImageAndPrompt, Score


@runtime_checkable
class Reward(Protocol):
    """Score images: higher is better. Scores of one reward are comparable with each other only."""

    @property
    def fingerprint(self) -> str:
        """Name the model, its revision and every setting that changes a score; part of the key of every score."""
        ...

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item as they finish; its value is nan where the image could not be scored."""
        ...


def check_scorable(images: Tensor, prompts: Sequence[str]) -> None:
    """Refuse what no reward can score.

    Args:
        images: Should be uint8, [n 3 h w].
        prompts: Should be one per image.

    Raises:
        ValueError: Images of another type or shape, or another number of prompts.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}. Allowed: uint8 of shape [n, 3, h, w]. "
            "Write `(255 * images).round().to(torch.uint8)` for floats from 0 to 1."
        )
    if len(prompts) != len(images):
        raise ValueError(f"{len(prompts)} prompts for {len(images)} images. Allowed: one each. Repeat the prompts.")
