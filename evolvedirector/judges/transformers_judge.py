"""A vision-language model of the transformers library as judge: one forward pass, the answer read as probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeAlias

from evolvedirector.judges.judge_images import check_size, judge_image, side_by_side_image
from evolvedirector.judges.questions.judge_questions import (
    PAIR_QUESTION,
    SIDE_BY_SIDE_QUESTION,
    look_of_answer,
    pair_question,
)
from evolvedirector.models.answer_tokens import answer_of_masses, unread
from evolvedirector.models.model_files import Dtype, ModelSettings, Quantisation, digest_of_model
from evolvedirector.models.on_demand import MemoryGuard, ModelOnDemand
from evolvedirector.models.vision_model import QuestionReader, VisionModel
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair, digest
from evolvedirector.records.looks import MIN_COVERED_MASS
from evolvedirector.records.questions import CHECK_QUESTION, LETTERS, YES_NO, Answer, Question, check_question
from evolvedirector.store.errors import StoreError

if TYPE_CHECKING:
    from PIL.Image import Image

Shown: TypeAlias = "tuple[Question, list[Image]]"  # one string: a parser of configs searches all modules for a part
"""A question with its images as the model sees them."""


class TransformersJudge:
    """Judge images by any image-text-to-text model of the transformers library (LLaVA-NeXT, Qwen-VL, InternVL, ...).

    A question has a closed set of answers. One forward pass gives the probabilities of the next token; those of all
    spellings of an answer are summed, and what the answers cover together is recorded: under `min_covered_mass` the
    model wanted to say something else, and the look is unreadable. Nothing is sampled. Both images of a pair get the
    same size, filter and codec, so that a file format cannot give away who made which.

    The weights are loaded on the first question, on every rank its own copy, and freed by `close`; only safetensors
    are read and no code of a model folder is ever run. The same judge answers any closed question (`answer`), which
    is what faithfulness and VQAScore are made of.

    Example:
        ```yaml
        judge:
          class_path: evolvedirector.judges.TransformersJudge
          init_args: {model: Qwen/Qwen3-VL-8B-Instruct, quantisation: nf4}
        ```

    Args:
        model: Folder with a saved model, or its name on the model hub.
        revision: Branch, tag or commit on the hub; None is its main branch.
        dtype: Of weights and computation; auto: as saved.
        quantisation: `nf4` (4 bit) or `int8`, both through bitsandbytes; None keeps the weights as they are.
        batch_size: Questions in one forward pass.
        image_layout: How the two images of a pair are shown: as two images, or as one picture side by side for models
            that take one only.
        image_size_px: Side of the square that each image is fitted into. A model's own processor may scale it again.
        check_template: Question about one image with `{prompt}`, answered by yes or no.
        pair_template: Question about two images with `{prompt}`, answered by A or B. None: one that fits the layout.
        min_covered_mass: Probability that the answers must have together, 0.5 to 1. Lower is never readable: a round
            counts a look under 0.5 as invalid.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.

    Raises:
        ValueError: A setting out of its range, or a template without `{prompt}`.
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        dtype: Dtype = "auto",
        quantisation: Quantisation | None = None,
        batch_size: int = 8,
        image_layout: Literal["two_images", "side_by_side"] = "two_images",
        image_size_px: int = 448,
        check_template: str = CHECK_QUESTION,
        pair_template: str | None = None,
        min_covered_mass: float = MIN_COVERED_MASS,
        device: str | None = None,
    ) -> None:
        side_by_side = image_layout == "side_by_side"
        self.pair_template = pair_template or (SIDE_BY_SIDE_QUESTION if side_by_side else PAIR_QUESTION)
        _check_settings(batch_size, min_covered_mass, (check_template, self.pair_template))
        check_size(image_size_px)
        self.model = model
        self.revision = revision
        self.dtype: Dtype = dtype
        self.quantisation: Quantisation | None = quantisation
        self.batch_size = batch_size
        self.image_layout = image_layout
        self.image_size_px = image_size_px
        self.check_template = check_template
        self.min_covered_mass = min_covered_mass
        self.device = device
        self._vision = ModelOnDemand(ModelSettings(model, revision, dtype, quantisation, device), VisionModel)
        self._fingerprint = ""
        self._guard = MemoryGuard(
            self._ask,
            self._lost,
            f"Allowed is what it holds. Write a batch_size under {batch_size}, an image_size_px under "
            f"{image_size_px} or `quantisation: nf4`.",
        )

    @property
    def fingerprint(self) -> str:
        """Name the model, its weights and every setting that changes its answers; neither path nor device."""
        if not self._fingerprint:
            source = self._vision.source()
            settings = (self.dtype, self.quantisation, self.image_layout, self.image_size_px, self.min_covered_mass)
            name = digest(digest_of_model(source), repr(settings), self.check_template, self.pair_template)
            self._fingerprint = f"transformers-1/{source.short_name}/{name}"
        return self._fingerprint

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt.

        Args:
            items: Encoded images with their prompts.
        """
        return map(look_of_answer, self.answer([check_question(item, self.check_template) for item in items]))

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better.

        Args:
            pairs: Encoded images with the prompt of both.
        """
        return map(look_of_answer, self.answer([pair_question(pair, self.pair_template) for pair in pairs]))

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Yield one answer per question, in their order; what cannot be read has covered mass 0 and a reason.

        Args:
            questions: Closed questions. Neighbours with equally many images share a forward pass.

        Raises:
            ValueError: If the model cannot be loaded, the first batch does not fit the device's memory, or two answers
                of a question begin with the same token.
        """
        for _, group in groupby(questions, key=lambda question: len(question.images)):
            alike = list(group)
            for start in range(0, len(alike), self.batch_size):
                yield from self._answer_batch(alike[start : start + self.batch_size])

    def models(self) -> frozenset[str]:
        """Name the model, so that it is known again under other questions and settings."""
        return frozenset({self.fingerprint, f"model {self.model}"})

    def close(self) -> None:
        """Free the model's memory; the next question loads it again."""
        self._vision.close()

    def estimated_bytes(self) -> int | None:
        """Estimate the memory of the loaded weights from the headers of their files; None if they are not here yet.

        Raises:
            ValueError: If there is no such model.
        """
        return self._vision.estimated_bytes()

    def verify(self) -> None:
        """Check, without loading weights, that the model exists, takes these images and can tell its answers apart.

        Raises:
            ValueError: With what is wrong and what to write.
        """
        reader = QuestionReader(self._vision.checked_source(), self.revision)
        shown = 1 if self.image_layout == "side_by_side" else 2
        for answers, template, count in ((YES_NO, self.check_template, 1), (LETTERS, self.pair_template, shown)):
            reader.tokens(answers)
            reader.check_pictures(template, count, self.image_size_px)

    def _answer_batch(self, batch: Sequence[Question]) -> list[Answer]:
        shown: list[Shown] = []
        answers: dict[int, Answer] = {}
        for place, question in enumerate(batch):
            try:
                shown.append((question, self._pictures(question)))
            except StoreError as error:
                answers[place] = unread(question.item_id, question.answers, str(error))
        read = iter(self._guard.run(shown))
        return [answers[place] if place in answers else next(read) for place in range(len(batch))]

    def _pictures(self, question: Question) -> list[Image]:
        if self.image_layout == "side_by_side" and len(question.images) == 2:
            return [side_by_side_image(*question.images, self.image_size_px)]
        return [judge_image(image, self.image_size_px) for image in question.images]

    def _ask(self, shown: Sequence[Shown]) -> list[Answer]:
        """Answer a batch in one forward pass."""
        questions = [question for question, _ in shown]
        masses = self._vision.get().masses(
            [question.text for question in questions],
            [pictures for _, pictures in shown],
            [question.answers for question in questions],
        )
        return [
            answer_of_masses(question.item_id, question.answers, found, self.min_covered_mass)
            for question, found in zip(questions, masses, strict=True)
        ]

    def _lost(self, shown: Shown) -> Answer:
        return unread(shown[0].item_id, shown[0].answers, "the device is out of memory")


def _check_settings(batch_size: int, min_covered_mass: float, templates: Sequence[str]) -> None:
    """Refuse settings that could not be meant."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}. Allowed is 1 or more. Write 8.")
    if not MIN_COVERED_MASS <= min_covered_mass <= 1.0:
        raise ValueError(
            f"min_covered_mass={min_covered_mass}. Allowed is {MIN_COVERED_MASS} to 1: with less, a round counts the "
            f"look as unreadable anyway. Write {MIN_COVERED_MASS}."
        )
    for template in templates:
        if "{prompt}" not in template:
            raise ValueError(
                f"The question {template[:80]!r} names no prompt. Allowed is a text with {{prompt}}. Write for example "
                f"{CHECK_QUESTION!r}."
            )
