"""Near pictures have near hashes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

_GRID = 8


def looks_of(pixels: np.ndarray) -> str:
    """Hash how a picture looks: the sign of the lightness step between neighbours on an 8 x 8 grid, by row and column.

    The difference hash (dHash), 128 bits, and 8 x 8 colours of 3 bits behind it: pictures that differ in colour alone
    are different pairs.

    Args:
        pixels: uint8 [height, width, 3].

    Returns:
        Hex.
    """
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L").resize((_GRID + 1, _GRID + 1), Image.Resampling.BOX)).astype(np.int16)
    colour = np.asarray(image.resize((_GRID, _GRID), Image.Resampling.BOX)).astype(np.int16)
    steps = [np.diff(grey, axis=1)[:_GRID] > 4, np.diff(grey, axis=0)[:, :_GRID] > 4]
    hues = [colour[..., 0] - colour[..., 1] > 16, colour[..., 1] - colour[..., 2] > 16, colour.sum(axis=-1) > 480]
    return np.packbits(np.concatenate([bits.ravel() for bits in (*steps, *hues)])).tobytes().hex()


def is_near(looks: str, others: Iterable[str], bits: int) -> bool:
    """Tell whether one of these hashes differs in at most so many bits.

    Args:
        looks: Of the picture.
        others: Of those that are kept.
        bits: 0: equal hashes alone are near.
    """
    own = int(looks, 16)
    return any((own ^ int(other, 16)).bit_count() <= bits for other in others)
