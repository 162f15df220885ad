"""Scoring pictures one by one with a function of the picture, as every reward of this world does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.worlds.shapes.judge import decode


def scores_of(items: Sequence[ImageAndPrompt], value: Callable[[Image.Image], float]) -> Iterator[Score]:
    """Yield one score per item; nan with a reason for what is no image, or too small to be read.

    Args:
        items: encoded images.
        value: what a decoded picture is worth; higher is better.
    """
    for item in items:
        try:
            yield Score(item.item_id, value(decode(item.image)))
        except ValueError as error:
            yield Score(item.item_id, math.nan, str(error))
