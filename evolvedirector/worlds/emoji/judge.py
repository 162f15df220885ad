"""A judge that reads emoji pictures by comparing them with every picture it knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS
from evolvedirector.worlds.emoji.templates import FloatArray, TemplateBank, build_bank, concept_scores, read_image
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary

JUDGE_VERSION = "1"
BATCH_IMAGES = 64
BACKGROUND_SPREAD = 0.06
"""Standard deviation, of 1 per channel, of the colours taken for one named background."""
BACKGROUND_NONE = 0.2
"""Distance from every named background, of 1, from which an image counts as having none of them."""
LOG_ODDS_LIMIT = 5.0
LOG_ODDS_PER_LOOK = 2.0


@dataclass(frozen=True)
class EmojiReading:
    """What the judge sees in one image: probability per concept (in the vocabulary's order) and per background."""

    concepts: FloatArray
    scores: FloatArray
    backgrounds: FloatArray


class EmojiJudge:
    """Say whether an image shows a prompt by template correlation over the vocabulary in all five styles."""

    def __init__(
        self,
        vocabulary: EmojiVocabulary | None = None,
        working_size_px: int = 32,
        nothing_score: float = 0.8,
        temperature: float = 0.02,
    ) -> None:
        """Choose vocabulary and strictness.

        Args:
            vocabulary: Concepts to tell apart. None: the default two dozen.
            working_size_px: Images are compared at this size (8 to 64); memory and time grow with its square.
            nothing_score: Correlation (0 to 1) that "none of them" competes with; a higher one is stricter.
            temperature: Correlations this far apart differ by a factor e in probability.

        Raises:
            UserError: A number is out of range.
            AssetError: The assets are missing.
        """
        if not 8 <= working_size_px <= 64:
            raise UserError(f"working_size_px is {working_size_px}. Allowed are 8 to 64. Write 32.")
        if not 0 < nothing_score < 1 or not 0 < temperature <= 1:
            raise UserError(
                f"nothing_score is {nothing_score} and temperature {temperature}. "
                "Allowed are values between 0 and 1. Write 0.8 and 0.02."
            )
        self.vocabulary = vocabulary or EmojiVocabulary()
        self._size_px = working_size_px
        self._nothing_score = nothing_score
        self._temperature = temperature
        self._position = {concept.label: row for row, concept in enumerate(self.vocabulary.concepts)}
        self._bank: TemplateBank | None = None

    @property
    def fingerprint(self) -> str:
        """Name the artwork, the judge's version and its numbers."""
        numbers = f"{self._size_px}-{self._nothing_score}-{self._temperature}"
        return f"emoji-judge-{JUDGE_VERSION}-{numbers}-{self.vocabulary.fingerprint}"

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt's concept, and its background if named."""
        for start in range(0, len(items), BATCH_IMAGES):
            batch = items[start : start + BATCH_IMAGES]
            readings = self.read([item.image for item in batch])
            for item, reading in zip(batch, readings, strict=True):
                yield self._look(item.item_id, reading, item.prompt)

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair, the probability that the first image fits better: the logistic of the log odds' difference.

        Log odds are limited to +-5, so that two good images, or two bad ones, are a tie.
        """
        for pair in pairs:
            first, second = self.check(
                [ImageAndPrompt("first", pair.first, pair.prompt), ImageAndPrompt("second", pair.second, pair.prompt)]
            )
            difference = _log_odds(first.probability) - _log_odds(second.probability)
            yield Look(
                pair.item_id,
                probability=float(1 / (1 + np.exp(-difference / LOG_ODDS_PER_LOOK))),
                covered_mass=min(first.covered_mass, second.covered_mass),
                reason=f"first: {first.reason}; second: {second.reason}",
            )

    def close(self) -> None:
        """Free the templates; the next call builds them again."""
        self._bank = None

    def read(self, images: Sequence[bytes]) -> list[EmojiReading | None]:
        """Read images without a prompt; None for bytes that are no image."""
        decoded = [self._decode(image) for image in images]
        readable = [image for image in decoded if image is not None]
        if not readable:
            return [None] * len(images)
        if self._bank is None:
            self._bank = build_bank(self.vocabulary, self._size_px)
        scores, colours = concept_scores(self._bank, np.stack(readable))
        concepts = softmax_with_nothing(scores, self._nothing_score, self._temperature)
        backgrounds = background_probabilities(colours)
        rows = iter(zip(concepts, scores, backgrounds, strict=True))
        return [None if image is None else EmojiReading(*next(rows)) for image in decoded]

    def _decode(self, image: bytes) -> FloatArray | None:
        try:
            return read_image(image, self._size_px)
        except ValueError:
            return None

    def _look(self, item_id: str, reading: EmojiReading | None, prompt: str) -> Look:
        scene = self.vocabulary.parse(prompt)
        if scene is None or scene.total > 1:
            reason = "the prompt is not in the vocabulary" if scene is None else "this judge reads single objects only"
            return Look(item_id, 0.5, covered_mass=0.0, reason=reason)
        if reading is None:
            return Look(item_id, 0.5, covered_mass=0.0, reason="the image cannot be read")
        probability = float(reading.concepts[self._position[scene.label]])
        if scene.background is not None:
            probability *= float(reading.backgrounds[list(BACKGROUNDS).index(scene.background)])
        best = int(reading.scores.argmax())
        colour = list(BACKGROUNDS)[int(reading.backgrounds.argmax())]
        seen = f"most like {self.vocabulary.concepts[best].label} ({reading.scores[best]:.2f}) on {colour}"
        return Look(item_id, min(1.0, probability), reason=seen)


def softmax_with_nothing(scores: FloatArray, nothing_score: float, temperature: float) -> FloatArray:
    """Turn scores into probabilities, with one more answer, "none of them", at a fixed score (left out again).

    Args:
        scores: Shape (batch, concepts).
        nothing_score: Score of the further answer.
        temperature: Divides the scores.
    """
    logits = np.concatenate([scores, np.full((len(scores), 1), nothing_score, scores.dtype)], axis=1) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: FloatArray = (weights / weights.sum(axis=1, keepdims=True))[:, :-1]
    return probabilities


def background_probabilities(colours: FloatArray) -> FloatArray:
    """Tell which named background a colour is: Gaussians around the names, and "none of them" (left out again).

    Args:
        colours: Shape (batch, 3), values 0 to 1.

    Returns:
        Shape (batch, backgrounds).
    """
    named = np.array(list(BACKGROUNDS.values()), dtype=np.float32) / 255
    squares = ((colours[:, None] - named) ** 2).sum(2)
    return softmax_with_nothing(-squares, -(BACKGROUND_NONE**2), 2 * BACKGROUND_SPREAD**2)


def _log_odds(probability: float) -> float:
    odds = np.log(max(probability, 1e-9)) - np.log(max(1 - probability, 1e-9))
    return float(np.clip(odds, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT))
