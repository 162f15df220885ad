"""Pictures of the miniature world with what its reader sees in them: what the tiny vision-language model learns from.

Half are clean drawings; the rest are spoilt as a young student spoils them (blurred, noisy, half drawn, two scenes in
one), because a judge is shown such pictures most of the time.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from evolvedirector.worlds.shapes.artist import draw
from evolvedirector.worlds.shapes.grammar import scenes
from evolvedirector.worlds.shapes.held_out import HeldOutPrompts
from evolvedirector.worlds.shapes.reader import read
from evolvedirector.worlds.shapes.reading import UNKNOWN, SeenObject, SeenScene
from evolvedirector.worlds.shapes.scene import Scene, Thing
from evolvedirector.worlds.shapes.world import World

WORLD = World(
    shapes=("circle", "square", "triangle", "star"),
    colours=("red", "green", "blue", "yellow", "purple", "orange"),
)
"""The words of the miniature recipe, and of its judge."""
IMAGE_SIZE_PX = 32
SPOILT_SHARE = 0.4
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture with its reading."""

    pixels: Pixels
    """Height x width x 3."""
    reading: SeenScene


class HeldOut:
    """Tell which scenes no picture and no question of the training may show or name.

    What `HeldOutPrompts` holds out, and for combinations of several kinds more: in no skill at all, not in one only.
    """

    def __init__(self) -> None:
        self.source = HeldOutPrompts(WORLD, per_skill=24)
        self._combinations = {
            scene.combination
            for skill in WORLD.skills
            for scene in scenes(WORLD, skill)
            if len(scene.things) > 1 and self.source.holds(scene)
        }

    def holds(self, scene: Scene) -> bool:
        """Tell whether a scene is held out."""
        return self.source.holds(scene) or scene.combination in self._combinations


def _free_scene(rng: np.random.Generator) -> Scene | None:
    """Return a scene that no skill asks for, as students draw them: two or three kinds with numbers."""
    things: dict[tuple[str, str], int] = {}
    for _ in range(rng.integers(2, 5)):
        kind = (str(rng.choice(WORLD.shapes)), str(rng.choice(WORLD.colours)))
        things[kind] = things.get(kind, 0) + 1
    return Scene(tuple(Thing(*kind, count) for kind, count in things.items())) if len(things) <= 3 else None


def random_scene(held_out: HeldOut, rng: np.random.Generator) -> Scene:
    """Draw a scene by skill, one in six of no skill.

    Args:
        held_out: what may not be drawn.
        rng: source of all variation.
    """
    while True:
        if rng.random() < 0.17:
            scene = _free_scene(rng)
        else:
            every = scenes(WORLD, str(rng.choice(WORLD.skills)))
            scene = every[rng.integers(len(every))]
        if scene is not None and not held_out.holds(scene):
            return scene


def drawn(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Draw a scene cleanly, half of the time in the tidy layout."""
    return draw(scene, IMAGE_SIZE_PX, IMAGE_SIZE_PX, int(rng.integers(2**31)), tidy=bool(rng.random() < 0.5))


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.3))))


def _noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    noise = rng.normal(0, rng.uniform(3, 28), size=(IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3))
    return _image(np.asarray(image) + noise)


def _coarse(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(25, 80)))
    return Image.open(buffer).convert("RGB")


def _image(pixels: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _field(rng: np.random.Generator, cells: int) -> NDArray[np.float64]:
    """Return smooth values from 0 to 1 over the picture."""
    small = Image.fromarray(rng.integers(0, 256, size=(cells, cells), dtype=np.uint8))
    return np.asarray(small.resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.BICUBIC)) / 255.0


def _half_drawn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Fade parts of the picture into its background."""
    pixels = np.asarray(image, dtype=np.float64)
    fade = np.clip((_field(rng, 4) - rng.uniform(0.0, 0.5)) * 4, 0, 1)[..., None]
    return _image(pixels * fade + pixels[0, 0] * (1 - fade))


def _smeared(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Shift pixels along a smooth field, by up to 3 px."""
    rows, columns = np.indices((IMAGE_SIZE_PX, IMAGE_SIZE_PX))
    strength = rng.uniform(1.0, 6.0)
    rows = np.clip(rows + (_field(rng, 5) - 0.5) * strength, 0, IMAGE_SIZE_PX - 1).round().astype(int)
    columns = np.clip(columns + (_field(rng, 5) - 0.5) * strength, 0, IMAGE_SIZE_PX - 1).round().astype(int)
    return _image(np.asarray(image, dtype=np.float64)[rows, columns])


def _two_in_one(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blend two scenes, either evenly or by a smooth field."""
    share = np.clip((_field(rng, 4) - 0.5) * rng.uniform(0.2, 6) + rng.uniform(0.2, 0.8), 0, 1)[..., None]
    return _image(np.asarray(image) * share + np.asarray(other) * (1 - share))


SPOILERS: tuple[Callable[[Image.Image, np.random.Generator], Image.Image], ...] = (
    _blurred,
    _noisy,
    _coarse,
    _half_drawn,
    _smeared,
)


def is_clear(reading: SeenScene) -> bool:
    """Tell whether a reading may teach: a reader that hardly knows what it sees is no teacher."""
    return all(
        max(seen.shape_probability.values()) >= 0.6 and max(seen.colour_probability.values()) >= 0.7
        for seen in reading.objects
    )


def scene_of(reading: SeenScene) -> Scene | None:
    """Return what was seen as a scene without relation; None where no prompt of the grammar says it."""
    counts: dict[tuple[str, str], int] = {}
    for seen in reading.objects:
        if UNKNOWN in (seen.shape, seen.colour):
            return None
        counts[seen.shape, seen.colour] = counts.get((seen.shape, seen.colour), 0) + 1
    if not 1 <= len(counts) <= 3 or max(counts.values()) > WORLD.max_count:
        return None
    return Scene(tuple(Thing(*kind, count) for kind, count in counts.items()))


def spoilt(image: Image.Image, held_out: HeldOut, rng: np.random.Generator) -> Image.Image:
    """Spoil a picture as a young student would, in one to three ways.

    Args:
        image: a clean drawing.
        held_out: what may not show through from another scene.
        rng: source of all variation.
    """
    if rng.random() < 0.3:
        image = _two_in_one(image, drawn(random_scene(held_out, rng), rng), rng)
    for which in rng.permutation(len(SPOILERS))[: rng.integers(1, 3)]:
        image = SPOILERS[which](image, rng)
    return image


def make_picture(held_out: HeldOut, rng: np.random.Generator, scene: Scene | None = None) -> Picture:
    """Draw one picture and read it; what is held out, or hardly read, is drawn again.

    Args:
        held_out: what may not be shown.
        rng: source of all variation.
        scene: what to draw; None draws any.
    """
    while True:
        image = drawn(scene or random_scene(held_out, rng), rng)
        if rng.random() < SPOILT_SHARE:
            image = spoilt(image, held_out, rng)
        reading = read(image, WORLD)
        seen = scene_of(reading)
        if is_clear(reading) and (seen is None or not held_out.holds(seen)):
            return Picture(np.asarray(image), reading)


def mirrored(picture: Picture) -> Picture:
    """Return a picture with left and right exchanged: every shape of this world is its own mirror image."""
    objects = tuple(
        SeenObject(o.shape, o.colour, 1.0 - o.x, o.y, o.area, o.shape_probability, o.colour_probability)
        for o in picture.reading.objects
    )
    return Picture(picture.pixels[:, ::-1], SeenScene(objects, picture.reading.sharpness))
