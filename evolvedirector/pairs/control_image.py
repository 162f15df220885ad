"""What a ControlNet is shown of a subject: its outline, its edges or its depth."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

Control = Literal["mask", "canny", "depth"]


def canny(pixels: np.ndarray, low: float = 0.1, high: float = 0.2, sigma: float = 1.4) -> np.ndarray:
    """Find edges (Canny 1986): smoothed gradient, thinned across, weak edges kept where they touch strong ones.

    Args:
        pixels: uint8 [height, width, 3].
        low: Least gradient of a weak edge, as a share of the largest possible.
        high: Of a strong one.
        sigma: Of the smoothing, in px.

    Returns:
        bool [height, width].
    """
    grey = Image.fromarray(pixels).convert("L").filter(ImageFilter.GaussianBlur(sigma))
    light = np.pad(np.asarray(grey, float) / 255, 1, mode="edge")
    dx = (light[1:-1, 2:] - light[1:-1, :-2]) * 2 + light[2:, 2:] - light[2:, :-2] + light[:-2, 2:] - light[:-2, :-2]
    dy = (light[2:, 1:-1] - light[:-2, 1:-1]) * 2 + light[2:, 2:] - light[:-2, 2:] + light[2:, :-2] - light[:-2, :-2]
    strength = np.hypot(dx, dy) / 4
    sector = (np.round(np.arctan2(dy, dx) / (np.pi / 4)) % 4).astype(int)
    around = np.pad(strength, 1)
    height, width = strength.shape
    thin = np.zeros_like(strength, bool)
    for number, (y, x) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = around[1 + y : 1 + y + height, 1 + x : 1 + x + width]
        behind = around[1 - y : 1 - y + height, 1 - x : 1 - x + width]
        thin |= (sector == number) & (strength >= ahead) & (strength > behind)
    weak, edges = thin & (strength >= low), thin & (strength >= high)
    while True:
        grown = np.asarray(Image.fromarray(edges).convert("L").filter(ImageFilter.MaxFilter(3)), bool) & weak
        if (grown == edges).all():
            return edges
        edges = grown


def shown(mask: np.ndarray) -> np.ndarray:
    """Return a mask as a picture, uint8 [height, width, 3]."""
    return np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)
