"""The shapes of the miniature world as outlines around the origin, in units of the nominal radius."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from evolvedirector.errors import UserError

PLURALS = MappingProxyType(
    {
        "circle": "circles",
        "square": "squares",
        "triangle": "triangles",
        "star": "stars",
        "cross": "crosses",
        "heart": "hearts",
    }
)
"""Every shape that can be drawn, with its plural."""


def _regular(corners: int, radius: float, first_angle: float) -> NDArray[np.float64]:
    angles = first_angle + np.arange(corners) * 2 * np.pi / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> NDArray[np.float64]:
    outline = _regular(10, 1.0, -np.pi / 2)
    # Deep notches: at 9 px across a shallow star is a circle to any reader, and to any student.
    outline *= np.where(np.arange(10) % 2 == 0, 1.2, 0.5)[:, None]
    return outline


def _cross() -> NDArray[np.float64]:
    a, b = 1.05, 0.36
    corners = [
        (-b, -a),
        (b, -a),
        (b, -b),
        (a, -b),
        (a, b),
        (b, b),
        (b, a),
        (-b, a),
        (-b, b),
        (-a, b),
        (-a, -b),
        (-b, -b),
    ]
    return np.array(corners)


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    points = np.stack([x, y], axis=1) / 16
    return points - (points.max(axis=0) + points.min(axis=0)) / 2


@cache
def outline(shape: str) -> NDArray[np.float64]:
    """Return the outline of a shape, because artist and reader must agree on what each word looks like.

    Args:
        shape: one of `PLURALS`.

    Returns:
        Corners as rows (x, y), y pointing down, in units of the nominal radius.
    """
    match shape:
        case "circle":
            return _regular(48, 0.96, 0.0)
        case "square":
            return np.array([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)])
        case "triangle":
            return _regular(3, 1.2, -np.pi / 2) * np.array([1.0, 1.0])
        case "star":
            return _star()
        case "cross":
            return _cross()
        case "heart":
            return _heart()
        case _:
            raise UserError(f"Unknown shape {shape!r}. The shapes are {', '.join(PLURALS)}. Write one of them.")


def reach(shape: str) -> float:
    """Return the radius of the circle around a shape, in nominal radii: no rotation leaves it.

    Args:
        shape: one of `PLURALS`.
    """
    return float(np.linalg.norm(outline(shape), axis=1).max())


def turned(shape: str, angle_rad: float) -> NDArray[np.float64]:
    """Return the outline of a shape turned around its origin.

    Args:
        shape: one of `PLURALS`.
        angle_rad: turn in radians, clockwise on the screen.
    """
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return outline(shape) @ np.array([[c, s], [-s, c]])
