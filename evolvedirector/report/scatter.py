"""A chart of named points that needs no script: where each point and its name stand, for the page to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH_PX, HEIGHT_PX = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 200, 18, 46
_LINE_PX = 16


@dataclass(frozen=True, slots=True)
class Point:
    """A point, its name and where the name stands, in pixels of the chart."""

    name: str
    x: float
    y: float
    label_y: float
    is_model: bool
    says: str


@dataclass(frozen=True, slots=True)
class Scatter:
    """A chart: its points, and the ticks of both axes as (pixel, text)."""

    across: str
    upwards: str
    points: Sequence[Point]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    left: float = _LEFT
    right: float = WIDTH_PX - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT_PX - _BOTTOM
    width: float = WIDTH_PX
    height: float = HEIGHT_PX


def scatter_of(points: Sequence[tuple[str, float, float, bool]], across: str, upwards: str) -> Scatter:
    """Place points and their names; names stand in a column beside the chart, none over another.

    Args:
        points: Name, value across, value upwards, and whether it is a model's.
        across: What the first value is.
        upwards: What the second is.
    """
    x_low, x_high = _range([x for _, x, _, _ in points])
    y_low, y_high = _range([y for _, _, y, _ in points])
    height_px = max(HEIGHT_PX, _TOP + _LINE_PX * len(points) + _BOTTOM)  # each name has a line
    left, right, top, bottom = _LEFT, WIDTH_PX - _RIGHT, _TOP, height_px - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across_px = left + (x - x_low) / (x_high - x_low) * (right - left)
        return round(across_px, 1), round(bottom - (y - y_low) / (y_high - y_low) * (bottom - top), 1)

    ranked = sorted(points, key=lambda point: -point[2])
    heights = _apart([place(x, y)[1] for _, x, y, _ in ranked], top + 4, bottom)
    placed = [
        Point(name, *place(x, y), height, is_model, f"{name}: {across} {x:.3f}, {upwards} {y:.3f}")
        for (name, x, y, is_model), height in zip(ranked, heights, strict=True)
    ]
    x_ticks = [(place(value, y_low)[0], f"{value:g}") for value in _ticks(x_low, x_high)]
    y_ticks = [(place(x_low, value)[1], f"{value:g}") for value in _ticks(y_low, y_high)]
    return Scatter(across, upwards, placed, x_ticks, y_ticks, bottom=bottom, height=height_px)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(*values, 0.0), max(*values, 1.0)
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _ticks(low: float, high: float) -> list[float]:
    return [number / 5 for number in range(math.ceil(low * 5), math.floor(high * 5) + 1)]


def _apart(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """Move names, sorted from the top, so far apart that each has a line, and none falls below the chart."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, top, moved[-1] + _LINE_PX if moved else top))
    for place in range(len(moved) - 1, -1, -1):
        below = moved[place + 1] - _LINE_PX if place + 1 < len(moved) else bottom
        moved[place] = round(min(moved[place], below), 1)
    return moved
