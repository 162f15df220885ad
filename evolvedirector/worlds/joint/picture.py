"""Draw a scene with what its text does not say: place, size, tint, shading and a stain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evolvedirector.records import seed_of
from evolvedirector.worlds.shapes.artist import draw
from evolvedirector.worlds.shapes.scene import Scene

SIZE_PX = 32
_DRAWN_PX = 96
_SMALLEST_PX = 28
_TINT = 9
_SHADING = 0.06
_STAIN = 26.0


def picture(scene: Scene, seed: int) -> Image.Image:
    """Draw a scene, 32 px a side; a second seed gives another place, size, tint, shading and stain.

    Objects lie tidily (`layout`): free placement leaves more to say than 128 numbers of a small embedding hold.

    Args:
        scene: what to draw.
        seed: same scene and seed, same pixels.
    """
    drawn = draw(scene, _DRAWN_PX, _DRAWN_PX, seed, tidy=True)
    rng = np.random.default_rng(seed_of("joint", repr(scene), seed))
    size = int(rng.integers(_SMALLEST_PX, SIZE_PX + 1))
    left, top = rng.integers(0, SIZE_PX - size + 1, size=2).tolist()
    canvas = Image.new("RGB", (SIZE_PX, SIZE_PX), drawn.getpixel((0, 0)))
    canvas.paste(drawn.resize((size, size), Image.Resampling.BOX), (left, top))
    pixels = np.asarray(canvas, dtype=np.float32)
    return Image.fromarray(np.clip(_weathered(pixels, rng), 0, 255).round().astype(np.uint8))


def _weathered(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Tint all of it, shade it along one direction, and darken one soft spot. Height x width x 3, 0 to 255."""
    tint = rng.uniform(-_TINT, _TINT, size=3)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, _SHADING)
    y, x = (np.indices((SIZE_PX, SIZE_PX)) + 0.5) / SIZE_PX - 0.5
    shading = 1.0 + strength * 2 * (np.cos(angle) * x + np.sin(angle) * y)
    centre, radius = rng.uniform(-0.5, 0.5, size=2), rng.uniform(0.1, 0.25)
    distance = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2
    stain = rng.uniform(0.3, 1.0) * _STAIN * np.exp(-distance)
    return pixels * shading[..., None] + tint - stain[..., None]
