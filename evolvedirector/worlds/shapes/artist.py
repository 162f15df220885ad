"""Draw a scene with Pillow: the ground truth that a student learns and a reader is measured on."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from evolvedirector.errors import UserError
from evolvedirector.records import seed_of
from evolvedirector.worlds.shapes.layout import layout
from evolvedirector.worlds.shapes.palette import COLOURS
from evolvedirector.worlds.shapes.scene import Scene
from evolvedirector.worlds.shapes.shapes import turned

MIN_SIZE_PX = 24
MAX_SIZE_PX = 2048
MAX_TURN_RAD = math.radians(9)
"""Slight on purpose: a square turned further is another shape to a reader of 9 px objects."""


def draw(scene: Scene, width_px: int, height_px: int, seed: int, tidy: bool = False) -> Image.Image:
    """Draw a scene; position, size, turn and background vary by seed, the objects never touch.

    Args:
        scene: what to draw.
        width_px: image width in pixels, 24 to 2048.
        height_px: image height in pixels, 24 to 2048.
        seed: same scene, size and seed, same pixels.
        tidy: objects on a lattice in reading order, large, with little play; else anywhere.

    Raises:
        UserError: a size outside of these limits.
    """
    if not (min(width_px, height_px) >= MIN_SIZE_PX and max(width_px, height_px) <= MAX_SIZE_PX):
        raise UserError(
            f"Image size {width_px}x{height_px} px. Allowed are sides of {MIN_SIZE_PX} to {MAX_SIZE_PX} px. Write 32."
        )
    rng = np.random.default_rng(seed_of("artist", repr(scene), seed))
    short_px = min(width_px, height_px)
    scale = max(2, math.ceil(256 / short_px))  # samples per pixel and axis: edges as smooth at 32 px as at 256
    background = rng.integers(238, 256, size=3)
    canvas = Image.new("RGB", (width_px * scale, height_px * scale), tuple(int(v) for v in background))
    pencil = ImageDraw.Draw(canvas)
    centres, radii = layout(scene, (width_px / short_px, height_px / short_px), rng, tidy)
    objects = [thing for thing in scene.things for _ in range(thing.count)]
    for thing, centre, radius in zip(objects, centres, radii, strict=True):
        corners = turned(thing.shape, rng.uniform(-MAX_TURN_RAD, MAX_TURN_RAD)) * radius + centre
        shade = np.clip(np.array(COLOURS[thing.colour]) + rng.integers(-8, 9, size=3), 0, 255)
        # Pillow draws the pixel a corner lies in whole; half a sample less centres the outline.
        pencil.polygon([tuple(c) for c in corners * short_px * scale - 0.5], fill=tuple(int(v) for v in shade))
    return canvas.reduce(scale)


def to_png(image: Image.Image) -> bytes:
    """Encode an image as PNG; equal pixels give equal bytes within one Pillow version."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
