"""Tell shapes apart by their coverage, compared with every shape drawn at the sizes and turns of the artist."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from evolvedirector.worlds.shapes.shapes import turned

GRID = 14
_SCALE = 8
_SIZES_PX = (8.0, 9.5, 11.0, 13.0, 16.0, 22.0)
"""Nominal diameters at which templates are drawn; a shape of 9 px is not a scaled-down shape of 16 px."""
_TURNS_DEG = (-8.0, -4.0, 0.0, 4.0, 8.0)
_SHIFTS_PX = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
_BLURS_PX = (0.0, 0.7)


def canonical(coverage: NDArray[np.floating], x: float, y: float, area: float) -> NDArray[np.float64]:
    """Resample a coverage patch to a fixed grid around its centre, scaled to unit area.

    Args:
        coverage: height x width, 0 to 1.
        x: column of the centre, in pixels.
        y: row of the centre, in pixels.
        area: sum of the coverage, in pixels.

    Returns:
        A vector of `GRID`^2 values with mean 0 and length 1 (zeros for an even patch).
    """
    # every shape of unit area lies within 1.0 around its centre
    steps = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    height, width = coverage.shape
    padded = np.zeros((height + 2, width + 2))
    padded[1:-1, 1:-1] = coverage
    rows = np.clip(y + steps * np.sqrt(area) + 1, 0, height + 0.999)
    columns = np.clip(x + steps * np.sqrt(area) + 1, 0, width + 0.999)
    r, c = rows.astype(int), columns.astype(int)
    dr, dc = (rows - r)[:, None], (columns - c)[None, :]
    upper = padded[r][:, c] * (1 - dc) + padded[r][:, c + 1] * dc
    lower = padded[r + 1][:, c] * (1 - dc) + padded[r + 1][:, c + 1] * dc
    vector = (upper * (1 - dr) + lower * dr).ravel()
    vector = vector - vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _drawn(shape: str, size_px: float, turn_deg: float, shift_px: tuple[float, float], blur_px: float) -> NDArray:
    side = int(size_px * 1.3) + 6
    mask = Image.new("L", (side * _SCALE, side * _SCALE), 0)
    centre = side / 2 + np.array(shift_px)
    corners = (turned(shape, np.radians(turn_deg)) * size_px / 2 + centre) * _SCALE - 0.5
    ImageDraw.Draw(mask).polygon([tuple(corner) for corner in corners], fill=255)
    mask = mask.reduce(_SCALE)
    if blur_px:
        mask = mask.filter(ImageFilter.GaussianBlur(blur_px))
    return np.asarray(mask, dtype=np.float64) / 255


@lru_cache(maxsize=16)
def _templates(shape: str) -> NDArray[np.float64]:
    vectors = []
    for size_px in _SIZES_PX:
        for turn_deg in (0.0,) if shape == "circle" else _TURNS_DEG:
            for shift_px in _SHIFTS_PX:
                for blur_px in _BLURS_PX:
                    coverage = _drawn(shape, size_px, turn_deg, shift_px, blur_px)
                    rows, columns = np.indices(coverage.shape)
                    area = coverage.sum()
                    centre = (coverage * columns).sum() / area, (coverage * rows).sum() / area
                    vectors.append(canonical(coverage, *centre, float(area)))
    return np.stack(vectors)


def shape_correlations(vector: NDArray[np.float64], shapes: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the best correlation of a canonical patch with each shape.

    Args:
        vector: what `canonical` returned.
        shapes: names of the shapes to compare with.

    Returns:
        One value in [-1, 1] per shape.
    """
    return np.array([(_templates(shape) @ vector).max() for shape in shapes])
