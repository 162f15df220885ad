"""How sure a vision-language model is that an image shows its prompt, as a reward."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from evolvedirector.judges.faithfulness import MIN_READABLE_MASS
from evolvedirector.judges.questions.judge_questions import CHECK_QUESTION, QuestionAnswerer, check_question
from evolvedirector.records import ImageAndPrompt
from evolvedirector.rewards.reward import check_scorable


class VQAScore:
    """Score an image by the probability of yes to one question about its whole prompt.

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

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return P(yes) per image on the CPU, 0 to 1; nan where the model's answer could not be read.

        Args:
            images: uint8, [n 3 h w], on any device.
            prompts: One per image.

        Raises:
            ValueError: Images of another type or shape, or another number of prompts.
        """
        check_scorable(images, prompts)
        items = [
            ImageAndPrompt(str(place), _png(image), prompt)
            for place, (image, prompt) in enumerate(zip(images, prompts, strict=True))
        ]
        scores = torch.full((len(items),), torch.nan)
        questions = [check_question(item, self.question) for item in items]
        for answer in self.answerer.answer(questions) if questions else ():
            if answer.covered_mass >= MIN_READABLE_MASS:
                scores[int(answer.item_id)] = answer.probabilities[0] * answer.covered_mass
        return scores

    def verify(self) -> None:
        """Let the model check that it can work, before anything is spent.

        Raises:
            ValueError: It cannot.
        """
        if hasattr(self.answerer, "verify"):
            self.answerer.verify()

    def close(self) -> None:
        """Free the model's memory and connections."""
        self.answerer.close()


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    # level 1: it travels to the next process, not to the disk
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
