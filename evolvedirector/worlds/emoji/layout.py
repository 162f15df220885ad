"""Where the pictures of a scene lie: never touching, never cut off, and as the relation says.

Every picture is a tight square, so that squares which keep a gap are pictures which do.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["free", "tidy"]

GAP = 0.06
"""Least distance between two squares, in shortest image sides: 2.9 px at 48 px, so that no blur joins them."""
MARGIN = 0.03
_TIDY_CENTRES = {
    2: ((0.26, 0.5), (0.74, 0.5)),
    3: ((0.26, 0.26), (0.74, 0.26), (0.5, 0.74)),
    4: ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)),
}
"""Centres by number of objects in reading order, as shares of width and height."""
_TIDY_SIDES = {2: (0.38, 0.41), 3: (0.38, 0.41), 4: (0.38, 0.41)}
_NINTHS = tuple((x, y) for y in (0.18, 0.5, 0.82) for x in (0.18, 0.5, 0.82))
_NINTH_SIDES = (0.235, 0.25)
_PLAY = 0.005
_FREE_SIDES = {2: (0.3, 0.42), 3: (0.27, 0.36), 4: (0.26, 0.33)}
_ATTEMPTS = 256


def layout(
    count: int, relation: str | None, extent: tuple[float, float], draw: np.random.Generator, kind: Layout = "tidy"
) -> tuple[NDArray[np.float64], float]:
    """Place two to nine squares of one size.

    Args:
        count: How many.
        relation: Where the first of two lies as seen from the second; None: anywhere.
        extent: Width and height of the image, in shortest sides (one of them is 1).
        draw: Source of all variation.
        kind: `tidy`: on a lattice in reading order (in a column for `above` and `below`), with hardly any play, so
            that a student has less to learn about placement and reaches the words sooner; `free`: anywhere.

    Returns:
        Centres (object x 2) and the side of the squares, both in shortest sides.
    """
    if kind == "tidy":
        return _tidy(count, relation, np.asarray(extent), draw)
    room = np.asarray(extent)
    low, high = _FREE_SIDES.get(count, (0.2, 0.23))
    side = float(draw.uniform(low, high))
    for shrink in (1.0, 0.92, 0.84):
        edge = side * shrink / 2 + MARGIN
        centres = draw.uniform(edge, room - edge, size=(_ATTEMPTS, count, 2))
        good = np.flatnonzero(_apart(centres, side * shrink) & _related(centres, relation))
        if len(good):
            return centres[good[0]], side * shrink
    return _tidy(count, relation, room, draw)


def _tidy(
    count: int, relation: str | None, room: NDArray[np.float64], draw: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    middle = np.array(_TIDY_CENTRES.get(count, _NINTHS[:count]))
    if relation in ("above", "below"):
        middle = middle[:, ::-1]
    if relation in ("right of", "below"):
        middle = middle[::-1]
    side = float(draw.uniform(*_TIDY_SIDES.get(count, _NINTH_SIDES)))
    return middle * room + draw.uniform(-_PLAY, _PLAY, size=middle.shape), side


def _apart(centres: NDArray[np.float64], side: float) -> NDArray[np.bool_]:
    """Tell per attempt whether all squares keep the gap. `centres`: attempt x object x 2."""
    first, second = np.triu_indices(centres.shape[1], 1)
    distance = np.abs(centres[:, first] - centres[:, second]).max(axis=-1)
    apart: NDArray[np.bool_] = (distance >= side + GAP).all(axis=1)
    return apart


def _related(centres: NDArray[np.float64], relation: str | None) -> NDArray[np.bool_]:
    if relation is None:
        return np.ones(len(centres), dtype=bool)
    offset = centres[:, 1] - centres[:, 0]
    axis = 0 if relation in ("left of", "right of") else 1
    along = offset[:, axis] if relation in ("left of", "above") else -offset[:, axis]
    related: NDArray[np.bool_] = np.abs(offset[:, 1 - axis]) <= 0.6 * along  # well inside its quarter
    return related
