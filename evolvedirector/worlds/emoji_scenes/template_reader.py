"""A reader that compares every object of an image with every picture it knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.worlds.emoji.artist import EmojiArtist
from evolvedirector.worlds.emoji.concept import STYLES
from evolvedirector.worlds.emoji.templates import FloatArray, TemplateBank, bank_of, bank_scores
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji_scenes.crops import read_pixels, read_scene
from evolvedirector.worlds.emoji_scenes.reading import EmojiSceneReading

READER_VERSION = "1"
SHARES = (1.0, 0.94, 0.88)
"""Sizes of a picture within its crop: the box of a blurred object is larger than the object."""
_OVERSAMPLING = 4


class EmojiTemplateReader:
    """Find the objects of an image and name each by template correlation over the vocabulary in all five styles."""

    def __init__(
        self, vocabulary: EmojiVocabulary | None = None, template_size_px: int = 16, least_score: float = 0.7
    ) -> None:
        """Choose vocabulary and strictness.

        Args:
            vocabulary: Concepts to tell apart. None: the default two dozen.
            template_size_px: Side of the templates, 8 to 48; memory and time grow with its square. 16 tells dozens of
                concepts apart; 24 is better for the whole vocabulary.
            least_score: Correlation (0 to 1) under which an object is none of the vocabulary's.

        Raises:
            UserError: A number is out of range.
            AssetError: The assets are missing.
        """
        if not 8 <= template_size_px <= 48:
            raise UserError(f"template_size_px is {template_size_px}. Allowed are 8 to 48. Write 16.")
        if not 0 < least_score < 1:
            raise UserError(f"least_score is {least_score}. Allowed are values between 0 and 1. Write 0.7.")
        self.vocabulary = vocabulary or EmojiVocabulary()
        self._size_px = template_size_px
        self._least_score = least_score
        self._bank: TemplateBank | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """List the concepts of the vocabulary."""
        return tuple(concept.label for concept in self.vocabulary.concepts)

    @property
    def fingerprint(self) -> str:
        """Name the reader's version, its numbers and the artwork."""
        return f"emoji-templates-{READER_VERSION}-{self._size_px}-{self._least_score}-{self.vocabulary.fingerprint}"

    def read(self, images: Sequence[bytes]) -> list[EmojiSceneReading | None]:
        """Read encoded images; None for bytes that are no image."""
        return [self._read(image) for image in images]

    def close(self) -> None:
        """Free the templates; the next call builds them again."""
        self._bank = None

    def _read(self, data: bytes) -> EmojiSceneReading | None:
        try:
            image = read_pixels(data)
        except ValueError:
            return None
        return read_scene(image, self.labels, self._score, self._size_px, self._least_score)

    def _score(self, crops: FloatArray, backgrounds: FloatArray) -> FloatArray:
        if self._bank is None:
            artists = [EmojiArtist(self.vocabulary, style) for style in STYLES]
            rows = [
                _sized(artist.raster(concept), self._size_px)
                for concept in self.vocabulary.concepts
                for artist in artists
            ]
            self._bank = bank_of(np.concatenate(rows), self._size_px, len(self.vocabulary.concepts))
        return bank_scores(self._bank, crops - backgrounds[:, :, None, None], backgrounds)


def _sized(picture: Image.Image, size_px: int) -> FloatArray:
    """Draw a tight picture at every size tried: premultiplied RGBA from 0 to 1, shape (sizes, size, size, 4)."""
    canvas_px = size_px * _OVERSAMPLING
    sized = []
    for share in SHARES:
        side_px = round(canvas_px * share)
        canvas = Image.new("RGBa", (canvas_px, canvas_px))
        scaled = picture.convert("RGBa").resize((side_px, side_px), Image.Resampling.BOX)
        canvas.paste(scaled, ((canvas_px - side_px) // 2,) * 2)
        pixels = np.asarray(canvas, dtype=np.float32) / np.float32(255)
        sized.append(pixels.reshape(size_px, _OVERSAMPLING, size_px, _OVERSAMPLING, 4).mean((1, 3)))
    return np.stack(sized)
