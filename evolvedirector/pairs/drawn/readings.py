"""Read a change from a picture and the subject's outline, without knowing what was drawn."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

from evolvedirector.pairs.drawn.changes import PLACES, TEXTURES, TINTS, luma, pattern
from evolvedirector.pairs.pictures import box_of, cut_square
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS

_SQUARE_PX = 60
"""Twelve pixels for each period of a texture."""
_SHIFTS = (-2, 0, 2)


def place_score(mask: np.ndarray, place: str) -> float:
    """Return how surely the subject stands where it should, 0 to 1; over 0.5 where no other place is nearer.

    Args:
        mask: bool [height, width], not empty.
        place: One of `PLACES`.
    """
    left, top, right, bottom = box_of(mask)
    centre = ((left + right) / 2 / mask.shape[1], (top + bottom) / 2 / mask.shape[0])
    distances = {name: math.dist(centre, point) for name, point in PLACES.items()}
    own = distances.pop(place)
    nearest = min(distances.values())
    return nearest / (own + nearest) if own + nearest else 0.5


def background_score(pixels: np.ndarray, mask: np.ndarray, background: str) -> float:
    """Return the share of what is not subject whose nearest named background is the one asked for.

    Args:
        pixels: uint8 [height, width, 3].
        mask: bool [height, width].
        background: One of the names of the emoji world.
    """
    outside = pixels[~mask].astype(float)
    if not len(outside):
        return 0.0
    colours = np.array(list(BACKGROUNDS.values()), float)
    nearest = np.linalg.norm(outside[:, None] - colours, axis=-1).argmin(axis=1)
    return float((nearest == list(BACKGROUNDS).index(background)).mean())


def tint_share(pixels: np.ndarray, mask: np.ndarray, tint: str) -> float:
    """Return the share of the subject's colour that is nearest to a tint, weighted by how coloured a pixel is.

    Args:
        pixels: uint8 [height, width, 3].
        mask: bool [height, width].
        tint: One of `TINTS`.
    """
    chroma = _chroma(pixels[mask].astype(float))
    strength = np.linalg.norm(chroma, axis=-1)
    if strength.sum() < 12 * len(strength):
        return 0.0  # grey: no tint at all
    directions = _chroma(np.array(list(TINTS.values()), float))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    nearest = (chroma @ directions.T).argmax(axis=1)
    return float(strength[nearest == list(TINTS).index(tint)].sum() / strength.sum())


def _chroma(rgb: np.ndarray) -> np.ndarray:
    """Return blue-yellow and red-green differences [n, 2] (Cb and Cr of ITU-R 601-2)."""
    light = rgb @ np.array([0.299, 0.587, 0.114])
    return np.stack([(rgb[:, 2] - light) * 0.564, (rgb[:, 0] - light) * 0.713], axis=-1)


def texture_score(pixels: np.ndarray, mask: np.ndarray, texture: str) -> float:
    """Return how much better the lightness of the subject agrees with one texture than with the others.

    Args:
        pixels: uint8 [height, width, 3].
        mask: bool [height, width], not empty.
        texture: One of `TEXTURES`.

    Returns:
        -1 to 1: the correlation with the texture, less half of the best one with another.
    """
    square, inside = cut_square(pixels, mask, _SQUARE_PX)
    inside = np.asarray(Image.fromarray(inside).filter(ImageFilter.MinFilter(3)))  # the rim is no texture
    if inside.sum() < 64:
        return 0.0
    # what light and shade remain once colour and form are taken away: log, as a texture darkens by a factor
    detail = _high(np.log(luma(square) + 0.08), inside)
    found = {name: _best_match(detail, inside, name) for name in TEXTURES}
    own = found.pop(texture)
    return own - 0.5 * max(0.0, *found.values())


def _best_match(detail: np.ndarray, inside: np.ndarray, texture: str) -> float:
    dark = pattern(texture, _SQUARE_PX)
    return max(
        _correlation(-_high(np.roll(dark, (dy, dx), (0, 1)), inside), detail, inside)
        for dy in _SHIFTS
        for dx in _SHIFTS
    )


def _high(values: np.ndarray, inside: np.ndarray, radius: int = 6) -> np.ndarray:
    """Subtract the mean of the neighbourhood inside of the outline, one period wide."""
    weight = _boxed(inside.astype(float), radius)
    return values - _boxed(values * inside, radius) / np.maximum(weight, 1e-6)


def _boxed(values: np.ndarray, radius: int) -> np.ndarray:
    """Sum over a square around each place, by the integral image."""
    side, width = values.shape[0], 2 * radius + 1
    integral = np.pad(np.pad(values, radius).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    ahead, here = slice(width, width + side), slice(0, side)
    return np.asarray(integral[ahead, ahead] - integral[here, ahead] - integral[ahead, here] + integral[here, here])


def _correlation(first: np.ndarray, second: np.ndarray, inside: np.ndarray) -> float:
    a, b = first[inside] - first[inside].mean(), second[inside] - second[inside].mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0
