"""A teacher that draws with real emoji artwork."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evolvedirector.assets.asset_error import AssetError
from evolvedirector.miniature.emoji_artist import ARTIST_VERSION, EmojiArtist, encode_png
from evolvedirector.miniature.emoji_concept import EmojiStyle
from evolvedirector.miniature.emoji_vocabulary import EmojiVocabulary
from evolvedirector.records import ImageReply, ImageRequest


class EmojiTeacher:
    """Draw the prompts of a vocabulary in one of five art styles, so that five teachers share one language."""

    def __init__(
        self, style: EmojiStyle, vocabulary: EmojiVocabulary | None = None, cost_usd_per_image: float = 0.0
    ) -> None:
        """Choose style and vocabulary.

        Args:
            style: noto, fluent_3d, fluent_flat, twemoji or openmoji.
            vocabulary: What it understands. None: the default two dozen concepts.
            cost_usd_per_image: Price to report, to try a budget.

        Raises:
            ValueError: There is no such style, or the price is negative.
            AssetError: The assets are missing.
        """
        if cost_usd_per_image < 0:
            raise ValueError(f"cost_usd_per_image is {cost_usd_per_image}. Allowed are prices from 0. Write 0.0.")
        self.vocabulary = vocabulary or EmojiVocabulary()
        self._artist = EmojiArtist(self.vocabulary, style)
        self.cost_usd_per_image = cost_usd_per_image

    @property
    def fingerprint(self) -> str:
        """Name style, artwork and the artist's version."""
        return f"emoji-{self._artist.style}-{ARTIST_VERSION}-{self.vocabulary.fingerprint}"

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one PNG per request, or a refusal for a prompt outside the vocabulary."""
        for request in requests:
            yield self._reply(request)

    def close(self) -> None:
        """Do nothing: the pictures in memory are small and shared."""

    def _reply(self, request: ImageRequest) -> ImageReply:
        scene = self.vocabulary.parse(request.prompt)
        if scene is None:
            return ImageReply(request.request_id, "refusal", reason=f"not in the vocabulary: {request.prompt[:80]!r}")
        try:
            image = self._artist.draw(scene, request.seed, request.width_px, request.height_px)
        except (AssetError, ValueError) as error:
            return ImageReply(request.request_id, "failure", reason=str(error))
        return ImageReply(request.request_id, "image", encode_png(image), cost_usd=self.cost_usd_per_image)
