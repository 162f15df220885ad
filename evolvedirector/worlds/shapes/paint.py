"""Take a picture of the miniature world apart: background, paint, and the areas of paint that may be objects.

Colour unmixing against the background, then connected components: at 32 px an object has 9 pixels across, and its edge
pixels say more about its shape than its core, so how far each is covered is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.worlds.shapes.components import label_components
from evolvedirector.worlds.shapes.palette import COLOURS
from evolvedirector.worlds.shapes.shape_match import canonical
from evolvedirector.worlds.shapes.world import World

WORK_SIZE_PX = 64
MIN_AREA = 0.011
"""Smallest object, as a share of the square over the shortest side: 11 px at 32 px; less is a speck."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One area of paint: where it lies and how far each of its pixels is covered.

    Args:
        inside: height x width of the picture: its pixels that are mostly paint.
        coverage: height x width of a window around it, 0 to 1; what belongs to others is 0.
        x: column of its centre in the window, in pixels.
        y: row of its centre in the window, in pixels.
        left: column of the window's first pixel in the picture.
        top: row of the window's first pixel in the picture.
    """

    inside: NDArray[np.bool_]
    coverage: NDArray[np.floating]
    x: float
    y: float
    left: int
    top: int

    @property
    def area(self) -> float:
        """Return the sum of its coverage, in pixels."""
        return float(self.coverage.sum())

    @property
    def canonical(self) -> NDArray[np.float64]:
        """Return its coverage on the grid of `shape_match.canonical`: mean 0, length 1."""
        return canonical(self.coverage, self.x, self.y, self.area)


@dataclass(frozen=True, slots=True)
class Paint:
    """A picture of the miniature world taken apart into background and paint.

    Args:
        pixels: height x width x 3, 0 to 255, at the size at which pictures are read.
        background: its colour.
        coverage: height x width: how far each pixel is paint rather than background.
        residual: height x width: what neither background nor one colour of the palette explains, 0 to 255.
        patches: the areas large enough to be objects.
    """

    pixels: NDArray[np.float32]
    background: NDArray[np.float32]
    coverage: NDArray[np.float32]
    residual: NDArray[np.float32]
    patches: tuple[Patch, ...]


def paint_of(image: Image.Image, world: World) -> Paint:
    """Take a picture apart.

    Args:
        image: any mode, at least 16 px on its shortest side; larger than 64 px is taken at 64-127 px.
        world: whose colours count as paint.

    Raises:
        UserError: an image under 16 px.
    """
    if min(image.size) < 16:
        raise UserError(f"Image of {image.size} px. Allowed are sides of at least 16 px. Write a larger size.")
    pixels = _pixels(image)
    background = _background(pixels)
    best, coverage, residual = _unmix(pixels, background, palette_of(world))
    filled = coverage > 0.5
    labels = label_components(np.where(filled, best, -1))
    names, sizes = np.unique(labels[filled], return_counts=True)
    large = names[sizes >= MIN_AREA * min(labels.shape) ** 2]
    kept = np.isin(labels, large)
    patches = tuple(_patch(coverage, labels == name, kept & (labels != name)) for name in large)
    return Paint(pixels, background, coverage, residual, patches)


def palette_of(world: World) -> NDArray[np.float32]:
    """Return the colours of a world as colour x 3, 0 to 255."""
    return np.array([COLOURS[colour] for colour in world.colours], dtype=np.float32)


def _pixels(image: Image.Image) -> NDArray[np.float32]:
    """Return height x width x 3 at a size that costs the same for every input."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    factor = min(image.size) // WORK_SIZE_PX
    if factor > 1:
        image = image.reduce(factor)
    return np.asarray(image, dtype=np.float32)


def _background(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    rim = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3)])
    sides = np.concatenate([pixels[:, :2].reshape(-1, 3), pixels[:, -2:].reshape(-1, 3)])
    return np.median(np.concatenate([rim, sides]), axis=0)


def _unmix(
    pixels: NDArray[np.float32], background: NDArray[np.float32], palette: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Explain each pixel as (1 - a) background + a colour: best colour, its coverage a, what remains unexplained."""
    directions = palette - background
    lengths = np.maximum((directions**2).sum(axis=1), 1.0)
    offset = pixels - background
    coverage = np.clip(offset @ directions.T / lengths, 0.0, 1.1)
    # |offset - a d|^2 expanded: no height x width x colour x 3 array
    residual = (offset**2).sum(-1)[..., None] - 2 * coverage * (offset @ directions.T) + coverage**2 * lengths
    best = residual.argmin(axis=-1)
    pick = best[..., None]
    return (
        best,
        np.take_along_axis(coverage, pick, -1)[..., 0],
        np.sqrt(np.maximum(np.take_along_axis(residual, pick, -1)[..., 0], 0.0)),
    )


def _window(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(max(rows[0] - 2, 0), rows[-1] + 3), slice(max(columns[0] - 2, 0), columns[-1] + 3)


def _patch(coverage: NDArray[np.float32], inside: NDArray[np.bool_], others: NDArray[np.bool_]) -> Patch:
    window = _window(inside)
    soft = np.where(others[window], 0.0, np.minimum(coverage[window], 1.0))
    soft[soft < 0.12] = 0.0  # noise of the background must not pull the centre
    area = float(soft.sum())
    rows, columns = np.indices(soft.shape)
    y, x = float((soft * rows).sum() / area), float((soft * columns).sum() / area)
    return Patch(inside, soft, x, y, window[1].start, window[0].start)
