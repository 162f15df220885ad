"""A teacher that draws with real emoji artwork."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.records import ImageReply, ImageRequest, digest, seed_of
from evolvedirector.worlds.emoji.artist import ARTIST_VERSION, EmojiArtist, encode_png
from evolvedirector.worlds.emoji.concept import EmojiStyle
from evolvedirector.worlds.emoji.layout import Layout
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.emoji.weaknesses import EmojiWeaknesses


class EmojiTeacher:
    """Draw the prompts of a vocabulary in one of five art styles, so that five teachers share one language."""

    def __init__(
        self,
        style: EmojiStyle,
        vocabulary: EmojiVocabulary | None = None,
        cost_usd_per_image: float = 0.0,
        layout: Layout = "tidy",
        miscount: float = 0.0,
        confuse_relations: float = 0.0,
        wrong_concept: float = 0.0,
        drop_object: float = 0.0,
        wrong_background: float = 0.0,
    ) -> None:
        """Choose style, vocabulary and weaknesses.

        Args:
            style: noto, fluent_3d, fluent_flat, twemoji or openmoji.
            vocabulary: What it understands. None: the default two dozen concepts.
            cost_usd_per_image: Price to report, to try a budget.
            layout: How several objects lie: `tidy` on a lattice in reading order, `free` anywhere. Let the teachers
                of one student share a layout.
            miscount: Probability of one object too few or too many, where a number is asked for.
            confuse_relations: Probability of another relation than the one asked for.
            wrong_concept: Probability that one thing is drawn as another concept of its group.
            drop_object: Probability that one of several things is left out.
            wrong_background: Probability of another background than the one that is named.

        Raises:
            ValueError: There is no such style or layout, the price is negative, or a probability is none.
            AssetError: The assets are missing.
        """
        if not cost_usd_per_image >= 0:
            raise ValueError(f"cost_usd_per_image is {cost_usd_per_image}. Allowed are prices from 0. Write 0.0.")
        self.weaknesses = EmojiWeaknesses(miscount, confuse_relations, wrong_concept, drop_object, wrong_background)
        self.vocabulary = vocabulary or EmojiVocabulary()
        self._artist = EmojiArtist(self.vocabulary, style, layout)
        self.cost_usd_per_image = cost_usd_per_image

    @property
    def fingerprint(self) -> str:
        """Name style, artwork, the artist's version, layout and weaknesses."""
        manner = digest(self._artist.layout, repr(self.weaknesses), length=8)
        return f"emoji-{self._artist.style}-{ARTIST_VERSION}-{manner}-{self.vocabulary.fingerprint}"

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one PNG per request, or a refusal for a prompt outside the vocabulary."""
        for request in requests:
            yield self._reply(request)

    def price_usd(self) -> float:
        """Return the price of an image, in USD."""
        return self.cost_usd_per_image

    def close(self) -> None:
        """Do nothing: the pictures in memory are small and shared."""

    def _reply(self, request: ImageRequest) -> ImageReply:
        try:
            scene = self.vocabulary.require(request.prompt)
        except ValueError as error:
            return ImageReply(request.request_id, "refusal", reason=str(error))
        draw = np.random.default_rng(seed_of("emoji weakness", self.fingerprint, repr(scene), request.seed))
        drawn = self.weaknesses.distort(scene, self.vocabulary.concepts, draw)
        try:
            image = self._artist.draw(drawn, request.seed, request.width_px, request.height_px)
        except (AssetError, ValueError) as error:
            return ImageReply(request.request_id, "failure", reason=str(error))
        return ImageReply(request.request_id, "image", encode_png(image), cost_usd=self.cost_usd_per_image)
