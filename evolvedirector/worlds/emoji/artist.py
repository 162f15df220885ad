"""Draw the scenes of the emoji world in one art style."""

from __future__ import annotations

import io
import os
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.errors import UserError
from evolvedirector.records import seed_of
from evolvedirector.worlds.emoji.concept import STYLES, EmojiConcept, EmojiStyle
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS, scene_text
from evolvedirector.worlds.emoji.join import package_folders
from evolvedirector.worlds.emoji.layout import Layout, layout
from evolvedirector.worlds.emoji.raster import raster_bitmap, raster_vector
from evolvedirector.worlds.emoji.scene import EmojiScene
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary

BASE_RASTER_PX = 128
MAX_IMAGE_PX = 1024
SIZE_RANGE = (0.76, 0.9)
"""Longer side of the drawn thing as a share of the image's shorter side."""
MARGIN = 0.03
"""Least distance from the image's edge, as a share of its shorter side: the edge always shows the background."""
TINT_LEVELS = 4
"""How far each channel of a named background varies, of 255."""
ARTIST_VERSION = "1"


@dataclass(frozen=True, slots=True)
class DrawnObject:
    """One object of a drawn scene: the ground truth that a reader is measured against."""

    label: str
    box_px: tuple[int, int, int, int]
    """Left, top, right and bottom of what is visible of it (right and bottom exclusive), from its opacity."""


class EmojiArtist:
    """Place pictures of concepts on a pale background, with a small seeded variation of size, place and tint."""

    def __init__(self, vocabulary: EmojiVocabulary, style: EmojiStyle, layout: Layout = "tidy") -> None:
        """Choose style and layout.

        Args:
            vocabulary: What can be drawn.
            style: Art style.
            layout: How several objects lie: `tidy` on a lattice in reading order, `free` anywhere.

        Raises:
            UserError: There is no such style or layout.
        """
        if layout not in get_args(Layout):
            raise UserError(f"layout is {layout!r}. Allowed are {', '.join(get_args(Layout))}. Write 'tidy'.")
        if style not in STYLES:
            raise UserError(f"style is {style!r}. Allowed are {', '.join(STYLES)}. Write {STYLES[0]}.")
        self.vocabulary = vocabulary
        self.style = style
        self.layout: Layout = layout

    def draw(self, scene: EmojiScene, seed: int, width_px: int, height_px: int) -> Image.Image:
        """Draw a scene as an RGB image; the same arguments give the same image on every machine.

        Args:
            scene: Concepts of the vocabulary and background; without one, a nearly white tint is drawn by lot.
            seed: Chooses size, place and tint.
            width_px: Width, 8 to 1024.
            height_px: Height, 8 to 1024.

        Raises:
            ValueError: A side is out of range.
            AssetError: The picture cannot be read or rasterised.
        """
        return self.draw_with_truth(scene, seed, width_px, height_px)[0]

    def draw_with_truth(
        self, scene: EmojiScene, seed: int, width_px: int, height_px: int
    ) -> tuple[Image.Image, tuple[DrawnObject, ...]]:
        """Draw a scene and say where each of its objects is, in the order of its things.

        Args:
            scene: As for `draw`.
            seed: As for `draw`.
            width_px: As for `draw`.
            height_px: As for `draw`.

        Raises:
            UserError: A side is out of range.
            AssetError: A picture cannot be read or rasterised.
        """
        if not 8 <= min(width_px, height_px) <= max(width_px, height_px) <= MAX_IMAGE_PX:
            raise UserError(
                f"The image size is {width_px} x {height_px} px. Allowed are 8 to {MAX_IMAGE_PX} px a side."
            )
        if scene.total == 1:
            draw = np.random.default_rng(seed_of("emoji", scene.label, scene.background or "", seed))
            corners, side_px = _one_place(width_px, height_px, draw)
        else:
            draw = np.random.default_rng(seed_of("emoji scene", scene_text(scene), seed))
            corners, side_px = self._places(scene, width_px, height_px, draw)
        image = Image.new("RGB", (width_px, height_px), _background(scene.background, draw))
        drawn = []
        for label, (left_px, top_px) in zip(scene.objects, corners, strict=True):
            picture = self.raster(self.vocabulary[label], _raster_size(side_px))
            picture = picture.resize((side_px, side_px), Image.Resampling.LANCZOS)
            image.paste(picture, (left_px, top_px), picture)
            visible = picture.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox() or (0, 0, 1, 1)
            box = (left_px + visible[0], top_px + visible[1], left_px + visible[2], top_px + visible[3])
            drawn.append(DrawnObject(label, box))
        return image, tuple(drawn)

    def _places(
        self, scene: EmojiScene, width_px: int, height_px: int, draw: np.random.Generator
    ) -> tuple[list[tuple[int, int]], int]:
        short_px = min(width_px, height_px)
        extent = (width_px / short_px, height_px / short_px)
        centres, side = layout(scene.total, scene.relation, extent, draw, self.layout)
        side_px = max(2, round(side * short_px))
        corners = np.rint(centres * short_px - side_px / 2).astype(int)
        corners = np.clip(corners, 0, np.array([width_px, height_px]) - side_px)
        return [(int(left_px), int(top_px)) for left_px, top_px in corners], side_px

    def raster(self, concept: EmojiConcept, size_px: int = BASE_RASTER_PX) -> Image.Image:
        """Return the concept's picture as a tight RGBA square, kept in memory and as PNG in the cache folder."""
        return _cached_raster(self.vocabulary.root, self.style, concept.hexcode, concept.pictures[self.style], size_px)


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _one_place(width_px: int, height_px: int, draw: np.random.Generator) -> tuple[list[tuple[int, int]], int]:
    """Place the only object: as large as goes, anywhere inside the margin."""
    short_px = min(width_px, height_px)
    side_px = max(4, round(short_px * draw.uniform(*SIZE_RANGE)))
    margin_px = min(round(MARGIN * short_px), (short_px - side_px) // 2)
    left_px, top_px = (
        int(draw.integers(margin_px, full_px - side_px - margin_px + 1)) for full_px in (width_px, height_px)
    )
    return [(left_px, top_px)], side_px


def _raster_size(side_px: int) -> int:
    size_px = BASE_RASTER_PX
    while size_px < side_px:
        size_px *= 2
    return size_px


def _background(name: str | None, draw: np.random.Generator) -> tuple[int, int, int]:
    if name is None:
        red, green, blue = (int(level) for level in draw.integers(238, 256, 3))
    else:
        shift = draw.integers(-TINT_LEVELS, TINT_LEVELS + 1, 3)
        red, green, blue = (int(level) for level in np.clip(np.array(BACKGROUNDS[name]) + shift, 0, 255))
    return red, green, blue


@lru_cache(maxsize=4096)
def _cached_raster(root: Path, style: str, hexcode: str, picture: str, size_px: int) -> Image.Image:
    folder = package_folders(root)[style]
    path = root / "rasters" / folder.name / f"{hexcode}-{size_px}.png"
    if path.is_file():
        try:
            return raster_bitmap(path, size_px)
        except AssetError:  # a torn file of the cache: draw it again
            path.unlink(missing_ok=True)
    if style == "fluent_3d":
        image = raster_bitmap(folder / "assets" / picture, size_px)
    else:
        image = raster_vector(folder, picture, size_px)
    _store(path, encode_png(image))
    return image


def _store(path: Path, data: bytes) -> None:
    """Keep a raster for the next run; a cache folder that cannot be written costs time, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp.{uuid.uuid4().hex[:8]}")
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        return
