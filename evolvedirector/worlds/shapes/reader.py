"""Read an image of the miniature world: which shapes in which colours lie where.

A picture is taken apart into areas of paint, each of which is matched with every shape on its coverage rather than on a
thresholded mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evolvedirector.worlds.shapes.paint import Paint, Patch, paint_of, palette_of
from evolvedirector.worlds.shapes.reading import UNKNOWN, SeenObject, SeenScene
from evolvedirector.worlds.shapes.shape_match import shape_correlations
from evolvedirector.worlds.shapes.world import World

MIN_CORRELATION = 0.86
MAX_COLOUR_DISTANCE = 70.0
_COLOUR_SIGMA = 24.0
_SHAPE_SHARPNESS = 40.0


def _softmax(logits: NDArray[np.floating], words: tuple[str, ...]) -> dict[str, float]:
    weights = np.exp(logits - logits.max())
    return dict(zip(words, (weights / weights.sum()).tolist(), strict=True))


def _look_at(patch: Patch, paint: Paint, world: World) -> SeenObject:
    short_px = min(patch.inside.shape)
    fits = shape_correlations(patch.canonical, world.shapes)
    core = patch.inside & (paint.coverage >= min(0.85, float(np.median(paint.coverage[patch.inside]))))
    distance = np.linalg.norm(paint.pixels[core].mean(axis=0) - palette_of(world), axis=1)
    shape, colour = int(fits.argmax()), int(distance.argmin())
    return SeenObject(
        shape=world.shapes[shape] if fits[shape] >= MIN_CORRELATION else UNKNOWN,
        colour=world.colours[colour] if distance[colour] <= MAX_COLOUR_DISTANCE else UNKNOWN,
        x=(patch.x + patch.left + 0.5) / short_px,
        y=(patch.y + patch.top + 0.5) / short_px,
        area=patch.area / patch.inside.size,
        shape_probability=_softmax(fits * _SHAPE_SHARPNESS, world.shapes),
        colour_probability=_softmax(-(distance**2) / (2 * _COLOUR_SIGMA**2), world.colours),
    )


def read(image: Image.Image, world: World) -> SeenScene:
    """Find the objects of an image, however blurred or noisy a student's drawing may be.

    Args:
        image: any mode, at least 16 px on its shortest side; larger than 64 px is read at 64-127 px.
        world: whose shapes and colours to look for; everything else is `unknown`.

    Raises:
        UserError: an image under 16 px.
    """
    paint = paint_of(image, world)
    objects = tuple(_look_at(patch, paint, world) for patch in paint.patches)
    # 4 a (1 - a): how much of the image is neither background nor paint; edges alone give about 0.1 at 32 px
    smear = float((4 * paint.coverage * (1 - np.minimum(paint.coverage, 1.0))).mean())
    smear += float(paint.residual.mean()) / 64
    return SeenScene(objects, float(np.exp(-2.0 * smear)))
