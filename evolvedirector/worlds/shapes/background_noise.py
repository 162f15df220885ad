"""How clean the ground of a picture is: how far it strays from one colour, to select by, and how rough it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evolvedirector.worlds.shapes.paint import Paint
from evolvedirector.worlds.shapes.paint_reward import PaintReward

_EDGE_PX = 2
"""Pixels around a shape that its own blur covers."""


def ground_of(paint: Paint) -> NDArray[np.bool_]:
    """Return height x width: what belongs to no shape and to no shape's edge. Specks of paint belong to the ground.

    Args:
        paint: The picture taken apart.
    """
    shapes = np.zeros(paint.coverage.shape, dtype=np.bool_)
    for patch in paint.patches:
        shapes |= patch.inside
    for _ in range(_EDGE_PX):  # grow by one pixel to all eight sides
        padded = np.pad(shapes, 1)
        rows = padded[:-2] | padded[1:-1] | padded[2:]
        shapes = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return ~shapes


def deviation(paint: Paint) -> float:
    """Return the mean distance of the ground's pixels from its colour, in steps of 0 to 255 per channel.

    mean |p - b| / sqrt(3), with b the median colour of the picture's rim; 0 where shapes cover everything.

    Args:
        paint: The picture taken apart.
    """
    ground = ground_of(paint)
    if not ground.any():
        return 0.0
    return float(np.linalg.norm(paint.pixels[ground] - paint.background, axis=-1).mean() / np.sqrt(3))


def roughness(paint: Paint) -> float:
    """Return the root mean square difference of neighbours of the ground, in steps of 0 to 255 per channel.

    sqrt(mean (p - q)^2) over pairs (p, q) side by side or one above the other: only high frequencies count. A ground
    that drifts slowly from one colour to another is smooth.

    Args:
        paint: The picture taken apart.
    """
    ground = ground_of(paint)
    across = ground[:, 1:] & ground[:, :-1]
    down = ground[1:] & ground[:-1]
    steps = [
        (paint.pixels[:, 1:] - paint.pixels[:, :-1])[across],
        (paint.pixels[1:] - paint.pixels[:-1])[down],
    ]
    squares = np.concatenate(steps).astype(np.float64) ** 2
    return float(np.sqrt(squares.mean())) if squares.size else 0.0


class CleanBackground(PaintReward):
    """Select by how little the ground strays from one colour (minus `deviation`), at most 0.

    Its independent evaluator is `SmoothBackground`.

    Args:
        world: whose colours count as paint.
    """

    name = "miniature-clean-background-1"

    @staticmethod
    def measure(paint: Paint) -> float:
        """Return minus `deviation`.

        Args:
            paint: the picture taken apart.
        """
        return -deviation(paint)


class SmoothBackground(PaintReward):
    """Evaluate how smooth the ground is (minus `roughness`), at most 0; not to select by.

    Args:
        world: whose colours count as paint.
    """

    name = "miniature-smooth-background-1"

    @staticmethod
    def measure(paint: Paint) -> float:
        """Return minus `roughness`.

        Args:
            paint: the picture taken apart.
        """
        return -roughness(paint)
