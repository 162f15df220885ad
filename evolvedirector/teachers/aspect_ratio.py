"""Shapes of images, for services that take a shape where others take pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

ASPECT_RATIOS = ("1:1", "16:9", "9:16", "3:2", "2:3", "4:3", "3:4", "5:4", "4:5", "21:9", "9:21")


def nearest_aspect_ratio(width_px: int, height_px: int, ratios: Sequence[str] = ASPECT_RATIOS) -> str:
    """Choose the shape nearest to a size, twice as wide being as far as twice as high.

    Args:
        width_px: wanted.
        height_px: wanted.
        ratios: `width:height` each.
    """
    wanted = math.log(width_px / height_px)

    def distance(ratio: str) -> float:
        width, height = map(int, ratio.split(":"))
        return abs(math.log(width / height) - wanted)

    return min(ratios, key=distance)
