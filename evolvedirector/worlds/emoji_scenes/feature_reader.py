"""A reader of another kind: every object of an image by the features of a classifier of photographs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn import functional

from evolvedirector.errors import UserError
from evolvedirector.worlds.emoji.artist import EmojiArtist
from evolvedirector.worlds.emoji.concept import STYLES
from evolvedirector.worlds.emoji.efficientnet_lite import WEIGHTS_SHA256, EfficientNetLite0, require_weights
from evolvedirector.worlds.emoji.templates import FloatArray
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji_scenes.crops import read_pixels, read_scene
from evolvedirector.worlds.emoji_scenes.reading import EmojiSceneReading

READER_VERSION = "1"
CROP_PX = 64
BLOCKS = 11
"""Of 16: 112 channels at a sixteenth of the resolution; later ones tell crops of 20 px apart less well."""
POOLED = 2
"""Places per axis at which features are averaged: top left of an object, top right and so on."""
KNOWN_PX = 24
"""Size at which pictures are drawn before they are brought to the crops' size, as objects of a scene are."""
KNOWN_BACKGROUNDS = ((246, 246, 246), (165, 210, 250))
KNOWN_BLURS_PX = (0.0, 1.0)
"""A student's drawing is softer than the artwork."""
BATCH_CROPS = 64


class EmojiFeatureReader:
    """Find the objects of an image and name each by its nearest neighbour among features of all known pictures.

    The features are those of EfficientNet-Lite0, trained on photographs: no pixel is compared, and what they take for
    alike is not what template correlation does. Finding the objects is shared with `EmojiTemplateReader`, so that a
    mistake in that is a mistake of both.
    """

    def __init__(
        self, vocabulary: EmojiVocabulary | None = None, least_score: float = 0.5, device: str = "cpu"
    ) -> None:
        """Choose vocabulary and strictness.

        Args:
            vocabulary: Concepts to tell apart. None: the default two dozen.
            least_score: Cosine of standardised features (0 to 1) under which an object is none of the vocabulary's.
            device: Where features are computed, as PyTorch names it (cpu, cuda, mps); auto: a GPU where there is one.

        Raises:
            UserError: A number is out of range.
            AssetError: The assets are missing, or the package with the weights is not installed.
        """
        if not 0 < least_score < 1:
            raise UserError(f"least_score is {least_score}. Allowed are values between 0 and 1. Write 0.5.")
        require_weights()
        self.vocabulary = vocabulary or EmojiVocabulary()
        self._least_score = least_score
        self._device = device
        self._network: EfficientNetLite0 | None = None
        self._known: FloatArray | None = None
        self._mean = np.zeros(1, dtype=np.float32)
        self._deviation = np.ones(1, dtype=np.float32)

    @property
    def labels(self) -> tuple[str, ...]:
        """List the concepts of the vocabulary."""
        return tuple(concept.label for concept in self.vocabulary.concepts)

    @property
    def fingerprint(self) -> str:
        """Name the reader's version, its weights and numbers, and the artwork."""
        weights = WEIGHTS_SHA256[:12]
        return f"emoji-features-{READER_VERSION}-{weights}-{self._least_score}-{self.vocabulary.fingerprint}"

    def read(self, images: Sequence[bytes]) -> list[EmojiSceneReading | None]:
        """Read encoded images; None for bytes that are no image.

        Raises:
            AssetError: The weights are damaged.
        """
        return [self._read(image) for image in images]

    def close(self) -> None:
        """Free the network, which the next call loads again; the known features stay, as they take long to compute."""
        self._network = None

    def _read(self, data: bytes) -> EmojiSceneReading | None:
        try:
            image = read_pixels(data)
        except ValueError:
            return None
        return read_scene(image, self.labels, self._score, CROP_PX, self._least_score)

    def _score(self, crops: FloatArray, backgrounds: FloatArray) -> FloatArray:
        known = self._load() if self._known is None else self._known
        cosines = self._standardised(self._features(crops)) @ known.T
        starts = np.arange(len(self.labels)) * (len(known) // len(self.labels))
        scores: FloatArray = np.maximum.reduceat(cosines, starts, axis=1)
        return scores

    def _load(self) -> FloatArray:
        """Compute the features of every picture in every style, neighbours by concept."""
        artists = [EmojiArtist(self.vocabulary, style) for style in STYLES]
        pictures = (  # one after the other: those of a whole vocabulary would take gigabytes
            _on_background(artist.raster(concept), background, blur_px)
            for concept in self.vocabulary.concepts
            for artist in artists
            for background in KNOWN_BACKGROUNDS
            for blur_px in KNOWN_BLURS_PX
        )
        features = self._features(pictures)
        self._mean = features.mean(0)
        self._deviation = features.std(0) + np.float32(1e-3)
        self._known = self._standardised(features)
        return self._known

    def _features(self, crops: Iterable[FloatArray]) -> FloatArray:
        """Compute the features of crops (3, size, size), shape (crops, channels), a batch in memory at a time."""
        if self._network is None:
            self._network = EfficientNetLite0(self._device)
        parts = []
        rest = iter(crops)
        while batch := list(islice(rest, BATCH_CROPS)):
            maps = self._network.maps(torch.from_numpy(np.stack(batch)), BLOCKS)
            parts.append(functional.adaptive_avg_pool2d(maps, POOLED).flatten(1).cpu().numpy())
        features: FloatArray = np.concatenate(parts)
        return features

    def _standardised(self, features: FloatArray) -> FloatArray:
        """Subtract the known pictures' mean, divide by their deviation, and bring to length 1."""
        scaled = (features - self._mean) / self._deviation
        unit: FloatArray = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-6)
        return unit


def _on_background(picture: Image.Image, background: tuple[int, int, int], blur_px: float) -> FloatArray:
    """Draw a tight picture as small as it is in a scene and bring it to the crops' size, shape (3, size, size)."""
    small = picture.resize((KNOWN_PX, KNOWN_PX), Image.Resampling.LANCZOS)
    image = Image.new("RGB", small.size, background)
    image.paste(small, (0, 0), small)
    large = image.filter(ImageFilter.GaussianBlur(blur_px)).resize((CROP_PX, CROP_PX), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(large, dtype=np.float32).transpose(2, 0, 1) / 255)
