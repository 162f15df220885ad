"""Changes of a cut-out that are drawn exactly: place, tint, texture and view, and how a text says them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from evolvedirector.pairs.pair_records import ChangeKind
from evolvedirector.pairs.pictures import MASK_LEVEL
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS

_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
PLACES = {
    f"{row} {column}": (0.28 + 0.22 * x, 0.28 + 0.22 * y)
    for y, row in enumerate(_ROWS)
    for x, column in enumerate(_COLUMNS)
}
"""Centre of the subject, from the left and from the top, as shares of the side."""
TINTS = {
    "red": (214, 40, 44),
    "green": (44, 160, 62),
    "blue": (48, 92, 224),
    "purple": (150, 56, 196),
    "orange": (244, 130, 28),
    "teal": (18, 160, 168),
}
TEXTURES = ("striped", "dotted", "checked")
VIEWS = {
    "mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "lying on its left side": Image.Transpose.ROTATE_90,
    "lying on its right side": Image.Transpose.ROTATE_270,
    "upside down": Image.Transpose.ROTATE_180,
}
_DEPTH = 0.42
"""How much darker the dark half of a texture is."""
_LUMA = np.array([0.299, 0.587, 0.114])


def values_of(kind: ChangeKind, looks: tuple[str, ...]) -> tuple[str, ...]:
    """List what a change of a kind can say.

    Args:
        kind: Of the change.
        looks: Art sets of the world.
    """
    match kind:
        case "place":
            return tuple(PLACES)
        case "tint":
            return tuple(TINTS)
        case "texture":
            return TEXTURES
        case "style":
            return looks
        case "view":
            return tuple(VIEWS)


def text_of(category: str, kind: ChangeKind, change: dict[str, str]) -> str:
    """Write a change as a prompt.

    Args:
        category: What the subject is called.
        kind: Of the change.
        change: Its words; a place has a `background`, too.
    """
    value = change[kind]
    match kind:
        case "place":
            return f"{_article(category)} at the {value} on {_article(change['background'])} background"
        case "tint" | "texture":
            return _article(f"{value} {category}")
        case "style":
            return f"{_article(category)} in the style of {value.replace('_', ' ')}"
        case "view":
            return f"{_article(category)} {value}"


def _article(words: str) -> str:
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def luma(pixels: np.ndarray) -> np.ndarray:
    """Return lightness 0 to 1 of uint8 [..., 3] (ITU-R 601-2)."""
    return np.asarray(pixels[..., :3] @ _LUMA / 255.0)


def tinted(cut: np.ndarray, tint: str) -> np.ndarray:
    """Give a cut-out one colour and keep its lightness: dark stays dark, light becomes a pale tint.

    Args:
        cut: uint8 RGBA [side, side, 4].
        tint: One of `TINTS`.
    """
    light = luma(cut)[..., None]
    colour = np.array(TINTS[tint], float)
    dark = colour * (0.25 + 1.5 * light)
    pale = colour + (255 - colour) * (2 * light - 1) * 0.7
    return np.concatenate([_bytes(np.where(light < 0.5, dark, pale)), cut[..., 3:]], axis=-1)


def textured(cut: np.ndarray, texture: str) -> np.ndarray:
    """Lay a dark pattern over a cut-out.

    Args:
        cut: uint8 RGBA [side, side, 4].
        texture: One of `TEXTURES`.
    """
    dark = pattern(texture, cut.shape[0])[..., None]
    return np.concatenate([_bytes(cut[..., :3] * (1 - _DEPTH * dark)), cut[..., 3:]], axis=-1)


def pattern(texture: str, side_px: int) -> np.ndarray:
    """Return where a texture is dark, 0 or 1 [side, side]; five periods across, whatever the side.

    Args:
        texture: One of `TEXTURES`.
        side_px: Of the square.
    """
    y, x = (np.mgrid[:side_px, :side_px] + 0.5) / side_px * 5
    match texture:
        case "striped":
            return ((x + y) % 1 < 0.5).astype(float)
        case "dotted":
            return ((x % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.1).astype(float)
        case _:
            return ((np.floor(x * 1.2) + np.floor(y * 1.2)) % 2).astype(float)


def turned(cut: np.ndarray, view: str) -> np.ndarray:
    """Turn or mirror a cut-out.

    Args:
        cut: uint8 [side, side, channels].
        view: One of `VIEWS`.
    """
    return np.asarray(Image.fromarray(cut).transpose(VIEWS[view]))


def scene(
    cut: np.ndarray, centre: tuple[float, float], background: tuple[int, int, int], side_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put a cut-out on a plain background.

    Args:
        cut: uint8 RGBA [side, side, 4], of the size in which it is to stand.
        centre: From the left and from the top, as shares of the side; moved inwards where it would be cut.
        background: sRGB colour.
        side_px: Of the picture.

    Returns:
        Picture uint8 [side, side, 3] and mask bool [side, side].
    """
    own = cut.shape[0]
    left, top = (min(max(round(share * side_px - own / 2), 0), side_px - own) for share in centre)
    picture = np.full((side_px, side_px, 3), background, np.uint8)
    mask = np.zeros((side_px, side_px), bool)
    alpha = cut[..., 3:].astype(float) / 255
    under = picture[top : top + own, left : left + own]
    picture[top : top + own, left : left + own] = _bytes(cut[..., :3] * alpha + under * (1 - alpha))
    mask[top : top + own, left : left + own] = cut[..., 3] >= MASK_LEVEL
    return picture, mask


def named_background(name: str) -> tuple[int, int, int]:
    """Return the colour of a background."""
    return BACKGROUNDS[name]


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
