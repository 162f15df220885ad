"""How sure a vision-language model is that an image shows its prompt, as a reward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from evolvedirector.records import ImageAndPrompt, Score, digest
from evolvedirector.records.looks import MIN_COVERED_MASS
from evolvedirector.records.part import bytes_of, close_parts, price_of, requests_in_flight_of, verify_parts
from evolvedirector.records.questions import CHECK_QUESTION, QuestionAnswerer, check_question


class VQAScore:
    """Score an image by the probability of yes to one question about its whole prompt, 0 to 1.

    VQAScore (Lin et al. 2024, arXiv 2404.01291, eq. 1): P("yes" | image, "does it show {prompt}?"), the probability
    among all words, so yes and no need not sum to 1. Asked question by question instead, the same model agrees better
    with people on long prompts (`FaithfulnessJudge`); this costs one question an image.

    Args:
        answerer: The model that answers; `TransformersJudge` and `OpenAIVisionJudge` are such.
        question: Asked about each image, with `{prompt}`, answered by yes or no.

    Raises:
        ValueError: A question without `{prompt}`.
    """

    def __init__(self, answerer: QuestionAnswerer, question: str = CHECK_QUESTION) -> None:
        if "{prompt}" not in question:
            raise ValueError(
                f"question is {question[:200]!r}. Allowed is a text with `{{prompt}}`, or every prompt scores alike. "
                f"Write {CHECK_QUESTION!r}, say."
            )
        self.answerer = answerer
        self.question = question

    @property
    def fingerprint(self) -> str:
        """Name the model and the question."""
        return f"vqa-score-1/{digest(self.answerer.fingerprint, self.question)}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield P(yes) per item as the answers come; nan where the model's answer could not be read.

        Args:
            items: Encoded images with their prompts.
        """
        if not items:
            return
        for answer in self.answerer.answer([check_question(item, self.question) for item in items]):
            readable = answer.covered_mass >= MIN_COVERED_MASS
            value = answer.probabilities[0] * answer.covered_mass if readable else math.nan
            yield Score(answer.item_id, value, "" if readable else answer.reason or "no readable answer", answer.sent)

    @property
    def requests_in_flight(self) -> int:
        """Return how many images the model wants at once; 0 where it runs here."""
        return requests_in_flight_of(self.answerer)

    def price_usd(self) -> float | None:
        """Return what a score costs in USD; None where it is not known."""
        return price_of(self.answerer)

    def estimated_bytes(self) -> int:
        """Return what the model needs on a device, in bytes, as far as it says so."""
        return sum(bytes_of(self.answerer))

    def verify(self) -> None:
        """Let the model check that it can work, before anything is spent.

        Raises:
            ValueError: It cannot.
        """
        verify_parts(self.answerer)

    def close(self) -> None:
        """Free the model's memory and connections."""
        close_parts(self.answerer)
