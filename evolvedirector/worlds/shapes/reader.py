"""Read an image of the miniature world: which shapes in which colours lie where.

Colour unmixing against the background, connected components, and a shape match on coverage rather than on a
thresholded mask: at 32 px an object has 9 pixels across, and its edge pixels say more about its shape than its core.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evolvedirector.worlds.shapes.components import label_components
from evolvedirector.worlds.shapes.palette import COLOURS
from evolvedirector.worlds.shapes.reading import UNKNOWN, SeenObject, SeenScene
from evolvedirector.worlds.shapes.shape_match import canonical, shape_correlations
from evolvedirector.worlds.shapes.world import World

WORK_SIZE_PX = 64
MIN_AREA = 0.011
"""Smallest object, as a share of the square over the shortest side: 11 px at 32 px; less is a speck."""
MIN_CORRELATION = 0.86
MAX_COLOUR_DISTANCE = 70.0
_COLOUR_SIGMA = 24.0
_SHAPE_SHARPNESS = 40.0


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


def _softmax(logits: NDArray[np.floating], words: tuple[str, ...]) -> dict[str, float]:
    weights = np.exp(logits - logits.max())
    return dict(zip(words, (weights / weights.sum()).tolist(), strict=True))


def _window(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(max(rows[0] - 2, 0), rows[-1] + 3), slice(max(columns[0] - 2, 0), columns[-1] + 3)


def _look_at(
    pixels: NDArray[np.float32],
    coverage: NDArray[np.float32],
    inside: NDArray[np.bool_],
    others: NDArray[np.bool_],
    palette: NDArray[np.float32],
    world: World,
) -> SeenObject:
    short_px = min(inside.shape)
    window = _window(inside)
    soft = np.where(others[window], 0.0, np.minimum(coverage[window], 1.0))
    soft[soft < 0.12] = 0.0  # noise of the background must not pull the centre
    area = float(soft.sum())
    rows, columns = np.indices(soft.shape)
    y, x = float((soft * rows).sum() / area), float((soft * columns).sum() / area)
    fits = shape_correlations(canonical(soft, x, y, area), world.shapes)
    core = inside & (coverage >= min(0.85, float(np.median(coverage[inside]))))
    distance = np.linalg.norm(pixels[core].mean(axis=0) - palette, axis=1)
    shape, colour = int(fits.argmax()), int(distance.argmin())
    return SeenObject(
        shape=world.shapes[shape] if fits[shape] >= MIN_CORRELATION else UNKNOWN,
        colour=world.colours[colour] if distance[colour] <= MAX_COLOUR_DISTANCE else UNKNOWN,
        x=(x + window[1].start + 0.5) / short_px,
        y=(y + window[0].start + 0.5) / short_px,
        area=area / inside.size,
        shape_probability=_softmax(fits * _SHAPE_SHARPNESS, world.shapes),
        colour_probability=_softmax(-(distance**2) / (2 * _COLOUR_SIGMA**2), world.colours),
    )


def read(image: Image.Image, world: World) -> SeenScene:
    """Find the objects of an image, however blurred or noisy a student's drawing may be.

    Args:
        image: any mode, at least 16 px on its shortest side; larger than 64 px is read at 64-127 px.
        world: whose shapes and colours to look for; everything else is `unknown`.

    Raises:
        ValueError: an image under 16 px.
    """
    if min(image.size) < 16:
        raise ValueError(f"Image of {image.size} px. Allowed are sides of at least 16 px. Write a larger size.")
    pixels = _pixels(image)
    palette = np.array([COLOURS[colour] for colour in world.colours], dtype=np.float32)
    best, coverage, residual = _unmix(pixels, _background(pixels), palette)
    filled = coverage > 0.5
    labels = label_components(np.where(filled, best, -1))
    names, sizes = np.unique(labels[filled], return_counts=True)
    large = names[sizes >= MIN_AREA * min(labels.shape) ** 2]
    kept = np.isin(labels, large)
    objects = []
    for name in large:
        inside = labels == name
        objects.append(_look_at(pixels, coverage, inside, kept & ~inside, palette, world))
    # 4 a (1 - a): how much of the image is neither background nor paint; edges alone give about 0.1 at 32 px
    smear = float((4 * coverage * (1 - np.minimum(coverage, 1.0))).mean()) + float(residual.mean()) / 64
    return SeenScene(tuple(objects), float(np.exp(-2.0 * smear)))
