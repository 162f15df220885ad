"""Match patches of a subject into a draft, and say what of them is taken: what all refiners share, without a model.

Our reading of how Toffee's Refiner uses DINO patches (Zhou et al. 2024, arXiv:2406.09305, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.pairs.pair_records import ChangeKind, PairRequest
from evolvedirector.pairs.patch_encoder import cosines
from evolvedirector.pairs.pictures import MASK_LEVEL, box_of

Taken = Literal["all", "lightness", "colour", "nothing"]
TAKEN: dict[ChangeKind, Taken] = {
    "place": "all",
    "view": "all",
    "tint": "lightness",
    "texture": "colour",
    "style": "nothing",
}
"""What is taken from the subject for each kind of change: the rest of a draft is the change itself."""
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_TO_RGB = np.linalg.inv(_TO_YCC)


@dataclass(frozen=True, slots=True, eq=False)
class Squares:
    """Subject and draft, each cut to the box of its outline and scaled to one square.

    Args:
        draft: uint8 [side, side, 3].
        draft_inside: Where the draft shows the thing, bool [side, side].
        subject: uint8 [side, side, 3].
        subject_inside: Likewise of the subject.
    """

    draft: np.ndarray
    draft_inside: np.ndarray
    subject: np.ndarray
    subject_inside: np.ndarray


def taken_for(request: PairRequest) -> Taken:
    """Return what a request's kind of change takes from the subject; all where none is named."""
    return "all" if request.kind is None else TAKEN[request.kind]


def check_matching(position_weight: float, least_cosine: float) -> None:
    """Refuse numbers that match nothing.

    Args:
        position_weight: See `matches`.
        least_cosine: See `matches`.

    Raises:
        UserError: One is out of range.
    """
    if not (position_weight >= 0 and -1 <= least_cosine <= 1):
        raise UserError(
            f"position_weight is {position_weight} and least_cosine {least_cosine}. Allowed are 0 or more, and -1 to 1."
            " Write `position_weight: 6.0`, say."
        )


def squares_of(draft: np.ndarray, region: np.ndarray, subject: np.ndarray, inside: np.ndarray, side_px: int) -> Squares:
    """Cut draft and subject to the boxes of their outlines, and scale both to one square.

    Args:
        draft: uint8 [height, width, 3].
        region: Its outline, bool [height, width], not empty.
        subject: uint8 [height, width, 3].
        inside: Its outline, not empty.
        side_px: Of the squares.
    """
    d_box, s_box = box_of(region), box_of(inside)
    return Squares(
        _scaled(draft, d_box, side_px),
        _scaled(region, d_box, side_px) >= MASK_LEVEL,
        _scaled(subject, s_box, side_px),
        _scaled(inside, s_box, side_px) >= MASK_LEVEL,
    )


def nearest_features(features: np.ndarray, side: int) -> np.ndarray:
    """Take the nearest feature for each place of a square grid.

    Args:
        features: float [rows, columns, width].
        side: Of the grid.
    """
    rows, columns = features.shape[:2]
    at = (np.arange(side) + 0.5) / side
    return features[(at * rows).astype(int)][:, (at * columns).astype(int)]


def matches(
    draft: np.ndarray, subject: np.ndarray, inside: np.ndarray, position_weight: float, least_cosine: float = -1.0
) -> np.ndarray:
    """Return, for each place of the draft's grid, which of the subject's is nearest: j(i) = argmax_j cos - w |p|^2.

    Cosines are those of features less their mean over the square; positions are shares of the squares.

    Args:
        draft: Features float [n, n, width].
        subject: Likewise.
        inside: Whether a pixel of the subject's square is subject, bool [side, side].
        position_weight: w: how much a match may be from elsewhere; 0 leaves places out.
        least_cosine: Places without a better match stay as they are.

    Returns:
        int [n^2], row by row; -1 where nothing matches.
    """
    n = draft.shape[0]
    first, second = (features.reshape(n * n, -1) for features in (draft, subject))
    own = inside_of(inside, n).ravel()
    if not own.any():
        return np.full(n * n, -1)
    like = cosines(first - first.mean(axis=0), second - second.mean(axis=0))
    points = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2) / max(1, n - 1)
    far = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    worth = np.where(own[None], like - position_weight * far, -np.inf)
    best = worth.argmax(axis=1)
    return np.where(like[np.arange(n * n), best] >= least_cosine, best, -1)


def inside_of(inside: np.ndarray, side: int) -> np.ndarray:
    """Return the places of a grid at least half of which are inside, bool [side, side].

    Args:
        inside: bool [height, width].
        side: Of the grid.
    """
    covered = Image.fromarray(inside.astype(np.float32)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(covered) >= 0.5


def mixed_colours(draft: np.ndarray, new: np.ndarray, taken: Taken) -> np.ndarray:
    """Take colour, lightness or both from new pixels, the rest from the draft.

    Args:
        draft: uint8 [height, width, 3].
        new: Likewise.
        taken: What is new.
    """
    if taken == "all":
        return new
    first, second = (pixels.astype(float) @ _TO_YCC.T for pixels in (draft, new))
    light, colour = (first, second) if taken == "colour" else (second, first)
    rgb = np.concatenate([light[..., :1], colour[..., 1:]], axis=-1) @ _TO_RGB.T
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def put_back(draft: np.ndarray, region: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Return the draft with a square in its outline; outside of it every pixel is the draft's.

    Args:
        draft: uint8 [height, width, 3].
        region: Its outline, bool [height, width].
        square: uint8 [side, side, 3]: what is drawn in the box of the outline.
    """
    left, top, right, bottom = box_of(region)
    back = np.asarray(Image.fromarray(square).resize((right - left, bottom - top), Image.Resampling.LANCZOS))
    result = draft.copy()
    window = region[top:bottom, left:right]
    result[top:bottom, left:right][window] = back[window]
    return result


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return the lightness of a picture in all three channels."""
    return np.repeat(np.rint(pixels @ _TO_YCC[0]).astype(np.uint8)[..., None], 3, axis=-1)


def _scaled(values: np.ndarray, box: tuple[int, int, int, int], side_px: int) -> np.ndarray:
    """Cut a box out of a picture or a mask and scale it to a square."""
    image = Image.fromarray(values.astype(np.uint8) * 255 if values.dtype == bool else values)
    return np.asarray(image.resize((side_px, side_px), Image.Resampling.BILINEAR, box=box))
