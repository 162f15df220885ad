"""What a mask must be, and two ways to get one without a network."""

from __future__ import annotations

import numpy as np

from evolvedirector.worlds.shapes.components import label_components

LEAST_SHARE, MOST_SHARE = 0.002, 0.98
"""Of the picture: a subject of a few pixels has no detail, and one that fills everything is no subject."""


def mask_problem(mask: np.ndarray, picture: np.ndarray, what: str) -> str:
    """Say in one sentence why a mask cannot be used; empty where it can.

    Args:
        mask: bool [height, width].
        picture: uint8 [height, width, 3] that it belongs to.
        what: Whose mask, for the sentence.
    """
    if mask.shape != picture.shape[:2]:
        have, need = (f"{shape[1]}x{shape[0]}" for shape in (mask.shape, picture.shape))
        return f"The mask of {what} has {have} px, its picture {need}: both must have one size."
    share = float(mask.mean())
    if share < LEAST_SHARE:
        return (
            f"The mask of {what} is empty: it covers {share:.2%} of the picture, at least {LEAST_SHARE:.1%} is needed."
        )
    if share > MOST_SHARE:
        return f"The mask of {what} covers the whole picture: at most {MOST_SHARE:.0%} is a subject on a background."
    return ""


def several_subjects(mask: np.ndarray, second_share: float) -> bool:
    """Tell whether a mask has a second area of its own, nearly as large as the first.

    Args:
        mask: bool [height, width].
        second_share: Least size of the second area, as a share of the largest.
    """
    labels = label_components(np.where(mask, 0, -1))
    sizes = np.sort(np.unique(labels[labels >= 0], return_counts=True)[1])
    return len(sizes) > 1 and bool(sizes[-2] >= second_share * sizes[-1])


def against_border(pixels: np.ndarray, levels: int) -> np.ndarray:
    """Find the subject on a plain background: every pixel that is not of the border's colour, holes filled.

    Args:
        pixels: uint8 [height, width, 3].
        levels: Largest difference of a channel that still counts as the background, of 255.

    Returns:
        bool [height, width].
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(border.astype(np.int16), axis=0)
    plain = np.abs(pixels.astype(np.int16) - background).max(axis=-1) <= levels
    # a hole in the subject is background by colour alone: only what hangs together with the border is
    labels = label_components(np.where(np.pad(plain, 1, constant_values=True), 0, -1))[1:-1, 1:-1]
    return labels != 0
