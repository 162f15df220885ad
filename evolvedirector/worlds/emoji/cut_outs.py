"""Emoji as cut-outs with exact alpha, one concept in five art sets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from PIL import Image

from evolvedirector.records import digest
from evolvedirector.worlds.emoji.artist import ARTIST_VERSION, EmojiArtist
from evolvedirector.worlds.emoji.concept import STYLES, EmojiStyle
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary

_UNLIKE = ("symbols", "flags")
"""Groups that are signs rather than things: left out unless they are asked for."""


class EmojiCutOuts:
    """Give the pictures of `evolvedirector assets emoji` as subjects: the same concept in several art sets."""

    def __init__(
        self,
        folder: str | None = None,
        concepts: int | list[str] | None = None,
        groups: list[str] | None = None,
        looks: list[EmojiStyle] | None = None,
    ) -> None:
        """Choose concepts and art sets; files are read at first use.

        Args:
            folder: Cache folder that `evolvedirector assets emoji` filled. None: the user's own.
            concepts: How many, or their labels. None: all of the groups.
            groups: As for `EmojiVocabulary`. None: all but symbols and flags, which are no things.
            looks: Art sets. None: all five.
        """
        self._folder, self._concepts, self._groups = folder, concepts, groups
        self._looks: tuple[EmojiStyle, ...] = tuple(looks or STYLES)

    @property
    def fingerprint(self) -> str:
        """Name concepts and art sets."""
        return f"emoji cut-outs {ARTIST_VERSION} {digest(*self.concepts(), '|', *self._looks)}"

    @property
    def looks(self) -> tuple[str, ...]:
        """Name the art sets."""
        return self._looks

    @cached_property
    def vocabulary(self) -> EmojiVocabulary:
        """The concepts; every art set draws each of them.

        Raises:
            AssetError: The assets are missing or damaged.
            UserError: A group or a label is unknown.
        """
        known = EmojiVocabulary(self._folder, self._concepts, groups=self._groups)
        if self._groups is not None or isinstance(self._concepts, list):
            return known
        groups = sorted({concept.skill for concept in known.concepts} - set(_UNLIKE))
        return EmojiVocabulary(self._folder, self._concepts, groups=groups)

    @cached_property
    def _artists(self) -> dict[str, EmojiArtist]:
        return {look: EmojiArtist(self.vocabulary, look) for look in self._looks}

    def concepts(self) -> Sequence[str]:
        """List the labels of the concepts."""
        return [concept.label for concept in self.vocabulary.concepts]

    def category(self, concept: str) -> str:
        """Return what a text calls it: its label."""
        return concept

    def cut_out(self, concept: str, look: str, size_px: int) -> Image.Image:
        """Return a concept as a tight RGBA square.

        Args:
            concept: One of `concepts`.
            look: One of `looks`.
            size_px: Side.

        Raises:
            AssetError: The picture cannot be read or rasterised.
        """
        raster = self._artists[look].raster(self.vocabulary[concept])
        return raster if raster.width == size_px else raster.resize((size_px, size_px), Image.Resampling.LANCZOS)
