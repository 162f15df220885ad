"""Cut objects out of an image, and choose the grouping of its pieces that known pictures explain best."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.worlds.emoji.templates import FloatArray
from evolvedirector.worlds.emoji_scenes.reading import UNKNOWN, EmojiSceneReading, SeenEmoji
from evolvedirector.worlds.emoji_scenes.regions import Groupings, Region, find_groupings
from evolvedirector.worlds.shapes.judge import decode

WORK_SIZE_PX = 64
"""Images are read at 64 to 127 px on the shorter side, or as they are if smaller."""
OBJECT_COST = 0.015
"""Share of the energy that another object must explain, so that specks do not count."""

ScoreCrops = Callable[[FloatArray, FloatArray], FloatArray]
"""Crops (n, 3, size, size) and their backgrounds (n, 3), to scores of at most 1, shape (n, concepts)."""


def read_pixels(data: bytes) -> FloatArray:
    """Decode an image at a size that costs the same for every input, shape (3, height, width), 0 to 1.

    Raises:
        UserError: The bytes are no image, or it is too large or under 16 px a side.
    """
    image = decode(data)
    if min(image.size) < 16:
        raise UserError(f"Image of {image.size} px. Allowed are sides of at least 16 px. Write a larger size.")
    factor = min(image.size) // WORK_SIZE_PX
    if factor > 1:
        image = image.reduce(factor)
    return np.ascontiguousarray(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)


def read_scene(
    image: FloatArray, labels: tuple[str, ...], score_crops: ScoreCrops, size_px: int, least_score: float
) -> EmojiSceneReading:
    """Find the objects of an image.

    Every grouping of what stands out is one explanation of the image. Its quality is the share of the energy that
    the best picture of each object explains, sum_i e_i max(0, s_i)^2 / e, less a small price per object.

    Args:
        image: Shape (3, height, width), values 0 to 1.
        labels: Names of the concepts.
        score_crops: Scores objects against every concept.
        size_px: Side of the crops.
        least_score: Under it an object is `unknown`.
    """
    groupings = find_groupings(image)
    regions = {region.box: region for choice in groupings.choices for region in choice}
    background = (float(groupings.background[0]), float(groupings.background[1]), float(groupings.background[2]))
    if not regions:
        return EmojiSceneReading((), background)
    crops = np.stack([crop(image, region, groupings.background, size_px) for region in regions.values()])
    scores = score_crops(crops, np.tile(groupings.background, (len(crops), 1)))
    energies = _energies(image, groupings, list(regions.values()))
    explained = dict(zip(regions, energies * np.maximum(scores.max(1), 0.0) ** 2, strict=True))
    best = max(groupings.choices, key=lambda choice: sum(explained[r.box] - OBJECT_COST for r in choice))
    rows = {box: row for row, box in enumerate(regions)}
    short_px = min(image.shape[1:])
    return EmojiSceneReading(
        tuple(_seen(region, scores[rows[region.box]], labels, short_px, least_score) for region in best), background
    )


def crop(image: FloatArray, region: Region, background: FloatArray, size_px: int) -> FloatArray:
    """Cut one object out as a tight square on its background, without its neighbours, shape (3, size, size).

    Args:
        image: Shape (3, height, width).
        region: The object.
        background: Colour, shape (3,).
        size_px: Side of the result.
    """
    left, top, right, bottom = region.box
    height, width = region.mask.shape
    kept = np.pad(region.mask, 1)  # with its soft edge: one pixel more in each direction
    grown = kept.copy()
    for axis in (0, 1):
        grown |= np.roll(kept, 1, axis) | np.roll(kept, -1, axis)
    own = grown[1:-1, 1:-1]
    side = max(height, width)
    square = np.empty((3, side, side), dtype=np.float32)
    square[:] = background[:, None, None]
    down, along = (side - height) // 2, (side - width) // 2
    patch = np.where(own, image[:, top:bottom, left:right], background[:, None, None])
    square[:, down : down + height, along : along + width] = patch
    return _resample(square, size_px)


def _resample(square: FloatArray, size_px: int) -> FloatArray:
    """Bring a square to a size: bilinear at enough points per pixel of the result, then their mean."""
    side = square.shape[1]
    fine = max(2, -(-side // size_px))
    at = np.clip((np.arange(size_px * fine) + 0.5) * side / (size_px * fine) - 0.5, 0, side - 1)
    low = np.minimum(at.astype(int), max(0, side - 2))
    share = (at - low).astype(np.float32)
    high = np.minimum(low + 1, side - 1)
    rows = square[:, low] * (1 - share)[None, :, None] + square[:, high] * share[None, :, None]
    both = rows[:, :, low] * (1 - share) + rows[:, :, high] * share
    mean: FloatArray = both.reshape(3, size_px, fine, size_px, fine).mean((2, 4))
    return mean


def _energies(image: FloatArray, groupings: Groupings, regions: list[Region]) -> FloatArray:
    """Return each region's share of the energy of all that stands out."""
    energy = ((image - groupings.background[:, None, None]) ** 2).sum(0)
    sums = [float((energy[r.box[1] : r.box[3], r.box[0] : r.box[2]] * r.mask).sum()) for r in regions]
    return np.array(sums, dtype=np.float32) / max(groupings.energy, 1e-6)


def _seen(region: Region, scores: FloatArray, labels: tuple[str, ...], short_px: int, least_score: float) -> SeenEmoji:
    left, top, right, bottom = region.box
    best = int(scores.argmax())
    score = float(scores[best])
    return SeenEmoji(
        label=labels[best] if score >= least_score else UNKNOWN,
        score=score,
        scores=tuple(scores.tolist()),
        x=(left + right) / 2 / short_px,
        y=(top + bottom) / 2 / short_px,
        box_px=region.box,
    )
