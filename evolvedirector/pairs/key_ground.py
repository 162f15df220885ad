"""Views on a ground of a colour that the subject lacks, so that its outline can be read off a drawing.

A network that draws three channels, or the latents of three, gives no outline of its own. So it learns to keep the
ground of its reference, and the ground is chosen to be told from the subject: colour keying, as in film.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from evolvedirector.pairs.pictures import MASK_LEVEL, box_of

SUBJECT_SHARE = 0.8
"""Longer side of the subject's box, of the side of its view."""
GROUNDS = ((255, 255, 255), (0, 0, 0), (0, 200, 0), (230, 0, 230), (0, 90, 255), (255, 150, 0))
"""Colours to choose among, as sRGB."""
_LEVELS = 48
"""A pixel differs from the ground by more than this in some channel, or it is the ground."""
_NEAR = 0.02
"""Share of the subject that may be as near to a ground as it likes: a glint on an eye decides nothing."""


def centred(pixels: np.ndarray, mask: np.ndarray | None, side_px: int) -> np.ndarray:
    """Cut a subject out into the middle of a square; without an outline, cut the picture's middle square.

    Args:
        pixels: uint8 [height, width, 3].
        mask: bool [height, width], not empty. None: not known.
        side_px: Of the square.

    Returns:
        uint8 RGBA [side, side, 4]; opaque everywhere where no outline is known.
    """
    height, width = pixels.shape[:2]
    if mask is None:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        whole = Image.fromarray(pixels[top : top + side, left : left + side])
        return np.asarray(whole.resize((side_px, side_px), Image.Resampling.BICUBIC).convert("RGBA"))
    return framed(np.concatenate([pixels, mask[..., None].astype(np.uint8) * 255], axis=-1), side_px)


def framed(cut: np.ndarray, side_px: int) -> np.ndarray:
    """Put what is seen of a cut-out into the middle of a square, its longer side `SUBJECT_SHARE` of it.

    Args:
        cut: uint8 RGBA [height, width, 4], not transparent everywhere.
        side_px: Of the square.
    """
    left, top, right, bottom = box_of(cut[..., 3] >= MASK_LEVEL)
    seen = cut[top:bottom, left:right]
    longer = max(seen.shape[:2])
    tight = np.zeros((longer, longer, 4), np.uint8)
    y, x = (longer - seen.shape[0]) // 2, (longer - seen.shape[1]) // 2
    tight[y : y + seen.shape[0], x : x + seen.shape[1]] = seen
    tight = scaled(tight, max(1, round(SUBJECT_SHARE * side_px)))
    square = np.zeros((side_px, side_px, 4), np.uint8)
    start = (side_px - len(tight)) // 2
    square[start : start + len(tight), start : start + len(tight)] = tight
    return square


def scaled(cut: np.ndarray, side_px: int) -> np.ndarray:
    """Scale a cut-out; colours are weighed by alpha, so that nothing of what is cut away bleeds in.

    Args:
        cut: uint8 RGBA [side, side, 4].
        side_px: Wanted.
    """
    weighed = Image.fromarray(cut).convert("RGBa").resize((side_px, side_px), Image.Resampling.BICUBIC)
    return np.asarray(weighed.convert("RGBA"))


def key_ground(cut: np.ndarray) -> tuple[int, int, int]:
    """Return the colour of `GROUNDS` that is farthest from all colours of a subject.

    Args:
        cut: uint8 RGBA [side, side, 4].
    """
    colours = cut[cut[..., 3] >= MASK_LEVEL][:, :3].astype(np.int16)
    if not len(colours):
        return GROUNDS[0]
    # as `off_ground` measures: the largest difference of a channel
    apart = [np.quantile(np.abs(colours - np.array(ground)).max(axis=1), _NEAR) for ground in GROUNDS]
    return GROUNDS[int(np.argmax(apart))]


def on_ground(cut: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    """Lay a cut-out on a plain ground, uint8 [side, side, 3].

    Args:
        cut: uint8 RGBA [side, side, 4].
        ground: sRGB colour.
    """
    alpha = cut[..., 3:].astype(np.float32) / 255
    return np.rint(cut[..., :3] * alpha + np.array(ground, np.float32) * (1 - alpha)).astype(np.uint8)


def off_ground(picture: np.ndarray, ground: tuple[int, int, int]) -> np.ndarray:
    """Take a subject off its plain ground, uint8 RGBA [side, side, 4].

    Inside everything is the subject's. A pixel p of the edge is a mixture a f + (1 - a) g of subject and ground: f is
    taken from the inside next to it, and a = <p - g, f - g> / |f - g|^2. One that is no such mixture, such as a thin
    rim of another colour, stays as it is.

    Args:
        picture: uint8 [side, side, 3].
        ground: sRGB colour.
    """
    shown, back = picture.astype(np.float32), np.array(ground, np.float32)
    mask = np.abs(shown - back).max(axis=-1) > _LEVELS
    inside = _eroded(mask)
    weight = _around(inside.astype(np.float32))[..., None]
    near = _around(shown * inside[..., None]) / np.maximum(weight, 1)
    apart = near - back
    mixed = (((shown - back) * apart).sum(-1) / np.maximum((apart**2).sum(-1), 1)).clip(0, 1)
    off = np.abs(back + mixed[..., None] * apart - shown).max(axis=-1)
    edge = (mask | _grown(mask)) & ~inside & (weight[..., 0] > 0) & (off <= _LEVELS / 2)
    colour, alpha = np.where(edge[..., None], near, shown), np.where(edge, mixed, mask)
    return np.concatenate([np.rint(colour), np.rint(alpha * 255)[..., None]], axis=-1).astype(np.uint8)


def _shifts(values: np.ndarray) -> list[np.ndarray]:
    """Return the nine shifts of a picture by up to a pixel; what comes in from outside is 0."""
    padded = np.pad(values, [(1, 1), (1, 1)] + [(0, 0)] * (values.ndim - 2))
    height, width = values.shape[:2]
    return [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]


def _around(values: np.ndarray) -> np.ndarray:
    return np.sum(_shifts(values), axis=0)


def _eroded(mask: np.ndarray) -> np.ndarray:
    return np.all(_shifts(mask), axis=0)


def _grown(mask: np.ndarray) -> np.ndarray:
    return np.any(_shifts(mask), axis=0)
