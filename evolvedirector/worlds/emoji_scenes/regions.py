"""Find what stands out from a plain background, and the ways in which its pieces may belong together.

A picture may have pieces of its own (the rays of a bell, two maracas), so that a connected area is not an object.
The pieces are grouped by single linkage: growing the distance up to which pieces join gives a few groupings, from
every piece alone to all in one, and whoever knows the pictures chooses among them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evolvedirector.worlds.emoji.templates import FloatArray, border_colours, smooth
from evolvedirector.worlds.shapes.components import label_components

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, right and bottom exclusive."""

THRESHOLD = 0.07
"""Root mean square difference from the background, of 1, from which a pixel stands out."""
CLEAN = 0.02
"""Median difference of the border from the background, of 1, up to which an image counts as free of noise."""
NOISE_FACTOR = 3.0
"""The same in multiples of the noise that the border shows."""
FACTORS = (1.0, 2.5)
"""Multiples of the threshold that are tried: blurred objects that touch at the first are apart at the second."""
MIN_AREA = 0.0008
"""Smallest piece, as a share of the image: 2 px at 48 px; less is a speck."""
MIN_OBJECT_SIDE = 0.09
"""Smallest object, as a share of the shorter side."""
SPECK_SIDE = 0.5
SPECK_ENERGY = 0.06
"""A group under this share of the largest one's side and of all energy is a speck or a loose part, no object."""
MAX_PIECES = 24
MAX_GROUPINGS = 6


@dataclass(frozen=True)
class Region:
    """Pieces that are taken for one object."""

    box: Box
    mask: npt.NDArray[np.bool_]
    """Pixels of the object within the box."""


@dataclass(frozen=True)
class Groupings:
    """What stands out in one image."""

    background: FloatArray
    """Colour, shape (3,), 0 to 1."""
    energy: float
    """Sum of the squared differences from the background over all pixels that stand out."""
    choices: tuple[tuple[Region, ...], ...]
    """Ways to group the pieces into objects; none where nothing stands out."""


def find_groupings(image: FloatArray) -> Groupings:
    """Separate an image into background and objects.

    Args:
        image: Shape (3, height, width), values 0 to 1.
    """
    background = border_colours(image[None])[0]
    residual = image - background[:, None, None]
    distance = np.sqrt((residual**2).mean(0))
    if _border_noise(distance) > CLEAN:  # smoothing widens objects by a pixel: only where noise makes it worth that
        distance = np.sqrt((smooth(residual) ** 2).mean(0))
    threshold = max(THRESHOLD, NOISE_FACTOR * _border_noise(distance))
    energy = float((residual**2).sum(0)[distance > threshold].sum())
    least_px = MIN_OBJECT_SIDE * min(distance.shape)
    choices: list[tuple[Region, ...]] = []
    for factor in FACTORS:
        pieces = _pieces(distance > factor * threshold)
        found: list[tuple[Region, ...]] = []
        for groups in _linkage(pieces):
            regions = [_region([pieces[piece] for piece in group]) for group in groups]
            kept = _objects(regions, (residual**2).sum(0), energy, least_px)
            if kept and not any(_same(kept, other) for other in [*found, *choices]):
                found.append(kept)
        choices.extend(found[-MAX_GROUPINGS:])
    return Groupings(background, energy, tuple(choices))


def _border_noise(distance: FloatArray) -> float:
    return float(np.median(np.concatenate([distance[0], distance[-1], distance[:, 0], distance[:, -1]])))


def _pieces(stands_out: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.intp]]:
    """List the largest connected areas as pixel coordinates, each of shape (pixels, 2) in rows and columns."""
    labels = label_components(np.where(stands_out, 0, -1))
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    names, starts = np.unique(flat[order], return_index=True)
    areas = [area for name, area in zip(names, np.split(order, starts[1:]), strict=True) if name >= 0]
    areas = sorted((a for a in areas if len(a) >= MIN_AREA * flat.size), key=len, reverse=True)[:MAX_PIECES]
    return [np.stack(np.unravel_index(area, labels.shape), axis=1) for area in areas]


def _linkage(pieces: list[npt.NDArray[np.intp]]) -> list[list[list[int]]]:
    """Group pieces at every distance at which two groups join (single linkage), from most groups to one.

    Pieces whose boxes overlap are one from the start: the artists keep objects apart.
    """
    groups = [[number] for number in range(len(pieces))]
    if not pieces:
        return []
    gaps = np.full((len(pieces), len(pieces)), np.inf)
    for i, first in enumerate(pieces):
        for j in range(i):
            gaps[i, j] = gaps[j, i] = _gap(first, pieces[j])
    found = []
    while len(groups) > 1:
        distances = [
            (float(gaps[np.ix_(groups[a], groups[b])].min()), a, b) for a in range(len(groups)) for b in range(a)
        ]
        distance, a, b = min(distances)
        if distance > 0:
            found.append(groups)
        groups = [group for n, group in enumerate(groups) if n not in (a, b)] + [groups[a] + groups[b]]
    return [*found, groups]


def _gap(first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> float:
    """Distance between two boxes around pieces; 0 where they overlap, so that an outline holds what it encloses."""
    low = np.maximum(first.min(0), second.min(0))
    high = np.minimum(first.max(0), second.max(0))
    return float(np.hypot(*np.maximum(low - high, 0)))


def _objects(regions: list[Region], energies: FloatArray, energy: float, least_px: float) -> tuple[Region, ...]:
    sides = [max(r.box[2] - r.box[0], r.box[3] - r.box[1]) for r in regions]
    kept = []
    for region, side in zip(regions, sides, strict=True):
        left, top, right, bottom = region.box
        share = float((energies[top:bottom, left:right] * region.mask).sum()) / max(energy, 1e-6)
        if side >= least_px and (side >= SPECK_SIDE * max(sides) or share >= SPECK_ENERGY):
            kept.append(region)
    return tuple(kept)


def _region(pieces: list[npt.NDArray[np.intp]]) -> Region:
    pixels = np.concatenate(pieces)
    top, left = (int(v) for v in pixels.min(0))
    bottom, right = (int(v) + 1 for v in pixels.max(0))
    mask = np.zeros((bottom - top, right - left), dtype=bool)
    mask[pixels[:, 0] - top, pixels[:, 1] - left] = True
    return Region((left, top, right, bottom), mask)


def _same(first: tuple[Region, ...], second: tuple[Region, ...]) -> bool:
    return sorted(r.box for r in first) == sorted(r.box for r in second)
