"""Where the objects of a scene lie: never touching, never cut off, and as the relation says.

Free: anywhere. Tidy: on a lattice in reading order, large, with little play. A tidy artist has less to teach about
placement, so a small student reaches the words sooner: which shapes, in which colours, how many, how related.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evolvedirector.worlds.shapes.scene import Scene
from evolvedirector.worlds.shapes.shapes import reach

GAP = 0.075
"""Least distance between two objects, in shortest image sides: 2.4 px at 32 px, so that no blur joins them."""
MARGIN = 0.03
_DIAMETERS = {1: (0.42, 0.54), 2: (0.32, 0.42), 3: (0.29, 0.36), 4: (0.27, 0.33)}
_ATTEMPTS = 256
_TIDY_CENTRES = {
    1: ((0.5, 0.5),),
    2: ((0.26, 0.5), (0.74, 0.5)),
    3: ((0.26, 0.28), (0.74, 0.28), (0.5, 0.74)),
    4: ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)),
}
"""Centres by number of objects in reading order, as shares of width and height."""
_TIDY_DIAMETERS = {1: (0.5, 0.58), 2: (0.36, 0.42), 3: (0.33, 0.37), 4: (0.31, 0.35)}
_TIDY_PLAY = 0.03
_NINTHS = tuple((x, y) for y in (0.165, 0.5, 0.835) for x in (0.165, 0.5, 0.835))
_NINTHS_PLAY = 0.012
"""Nine cells leave less room: more play would cost the objects the pixels that tell their shape."""


def _diameters(total: int, rng: np.random.Generator) -> NDArray[np.float64]:
    low, high = _DIAMETERS.get(total, (0.2, 0.23))
    # One size for all, plus a little: equal things should look equal.
    return rng.uniform(low, high) * rng.uniform(0.94, 1.0, size=total)


def _apart(centres: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell per attempt whether all circles keep the gap. `centres`: attempt x object x 2."""
    if len(radii) == 1:
        return np.ones(len(centres), dtype=bool)
    first, second = np.triu_indices(len(radii), 1)
    distance = np.linalg.norm(centres[:, first] - centres[:, second], axis=-1)
    return (distance >= radii[first] + radii[second] + GAP).all(axis=1)


def _related(centres: NDArray[np.float64], relation: str | None) -> NDArray[np.bool_]:
    if relation is None:
        return np.ones(len(centres), dtype=bool)
    offset = centres[:, 1] - centres[:, 0]
    along = offset[:, 0] if relation in ("left of", "right of") else offset[:, 1]
    across = offset[:, 1] if relation in ("left of", "right of") else offset[:, 0]
    along = along if relation in ("left of", "above") else -along
    return np.abs(across) <= 0.6 * along  # well inside the quarter in which the reader sees this relation


def _grid(
    radii: NDArray[np.float64], room: NDArray[np.float64], relation: str | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Put objects into cells, each with the play its cell leaves: the way out when chance found no room."""
    columns = rows = math.ceil(math.sqrt(len(radii)))
    cells = rng.permutation(columns * rows)[: len(radii)]
    if relation is not None:
        columns, rows = (2, 1) if relation in ("left of", "right of") else (1, 2)
        cells = np.array([0, 1] if relation in ("left of", "above") else [1, 0])
    middle = (np.stack([cells % columns, cells // columns], axis=1) + 0.5) / (columns, rows)
    play = np.maximum(room / (columns, rows) / 2 - radii[:, None] - GAP / 2, 0.0)
    play = np.minimum(play, 0.06)  # no more, or the relation might tilt
    return middle * room + rng.uniform(-1, 1, size=middle.shape) * play


def _tidy(
    scene: Scene, room: NDArray[np.float64], reaches: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Put objects on a lattice in reading order, all of one size: the largest drawn size that keeps the gap."""
    total = len(reaches)
    low, high = _TIDY_DIAMETERS.get(total, (0.21, 0.23))
    play = _TIDY_PLAY if total in _TIDY_CENTRES else _NINTHS_PLAY
    middle = np.array(_TIDY_CENTRES.get(total, _NINTHS[:total]))
    if scene.relation in ("above", "below"):
        middle = middle[:, ::-1]
    if scene.relation in ("right of", "below"):
        middle = middle[::-1]
    centres = middle * room + rng.uniform(-play, play, size=middle.shape)
    nominal = rng.uniform(low, high) / 2
    # Shrink all alike until every circle around a shape lies inside and every two keep the gap.
    limits = [np.minimum(centres, room - centres).min(axis=1) / reaches]
    if total > 1:
        first, second = np.triu_indices(total, 1)
        distance = np.linalg.norm(centres[first] - centres[second], axis=1)
        limits.append((distance - GAP) / (reaches[first] + reaches[second]))
    return centres, np.full(total, min(nominal, float(np.concatenate(limits).min())))


def layout(
    scene: Scene, extent: tuple[float, float], rng: np.random.Generator, tidy: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Place the objects of a scene at random, apart from each other and inside of the image.

    Free placement asks a student to model where chance puts things before it may learn what the words mean; tidy
    placement leaves that out.

    Args:
        scene: what to place; objects in the order of its things.
        extent: width and height of the image, in shortest sides (one of them is 1).
        rng: source of all variation.
        tidy: on a lattice in reading order rather than anywhere: one object in the middle, two side by side (in a
            column for `above` and `below`), three and four in two rows, more in the cells of a 3 x 3 lattice.

    Returns:
        Centres (object x 2) and nominal radii (object), both in shortest sides.
    """
    shapes = [thing.shape for thing in scene.things for _ in range(thing.count)]
    room = np.asarray(extent)
    reaches = np.array([reach(shape) for shape in shapes])
    if tidy:
        return _tidy(scene, room, reaches, rng)
    nominal = _diameters(len(shapes), rng) / 2
    radii = nominal * reaches
    for shrink in (1.0, 0.93, 0.86):
        low = (radii * shrink + MARGIN)[:, None]
        centres = rng.uniform(low, room - low, size=(_ATTEMPTS, len(shapes), 2))
        good = np.flatnonzero(_apart(centres, radii * shrink) & _related(centres, scene.relation))
        if len(good):
            return centres[good[0]], nominal * shrink
    # A cell of the grid holds an object of this size whatever its shape.
    cell = float((room / math.ceil(math.sqrt(len(shapes)))).min())
    radii_in_cell = np.minimum(radii, (cell - GAP) / 2)
    return _grid(radii_in_cell, room, scene.relation, rng), nominal * radii_in_cell / radii
