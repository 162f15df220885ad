"""A loaded vision-language model: questions with pictures in, probability of each answer out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evolvedirector.errors import UserError
from evolvedirector.models.answer_tokens import answer_tokens
from evolvedirector.models.model_files import ModelSettings, ModelSource
from evolvedirector.models.model_loading import load_config, load_model
from evolvedirector.models.vision_processor import (
    control_tokens,
    inputs_of,
    load_processor,
    question_text,
    without_control_tokens,
)

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PreTrainedConfig


def image_text_config(source: ModelSource, revision: str | None) -> PreTrainedConfig:
    """Read the configuration of a model that takes pictures and text and continues the text.

    Args:
        source: Where the model comes from.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        UserError: If the model has no image input, or an encoder and a decoder.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    config = load_config(source, revision)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"The model {source.model!r} (type {config.model_type!r}) cannot judge images: it takes no pictures and "
            "text to continue. Allowed are image-text-to-text models, such as LLaVA-NeXT, Qwen-VL or InternVL. "
            "Write the name or folder of one."
        )
    return config


class QuestionReader:
    """Turn questions into a model's input, and answers into its tokens; needs no weights.

    Args:
        source: Where the model comes from.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        UserError: If the model takes no pictures, or its processor cannot be loaded.
    """

    def __init__(self, source: ModelSource, revision: str | None) -> None:
        self.config = image_text_config(source, revision)
        self.processor = load_processor(source, revision, self.config)
        self._control_tokens = control_tokens(self.processor)
        self._answers: dict[tuple[str, ...], tuple[frozenset[int], ...]] = {}

    def inputs(self, texts: Sequence[str], pictures: Sequence[Sequence[Image]]) -> Any:
        """Make the model's input.

        Args:
            texts: One question each.
            pictures: Equally many for each question.

        Raises:
            ValueError: If the processor cannot place the pictures in the text.
        """
        plain = [without_control_tokens(text, self._control_tokens) for text in texts]
        written = [question_text(self.processor, text, len(shown)) for text, shown in zip(plain, pictures, strict=True)]
        return inputs_of(self.processor, written, pictures)

    def tokens(self, answers: tuple[str, ...]) -> tuple[frozenset[int], ...]:
        """Return, per answer, the tokens that begin it and no other.

        Args:
            answers: All answers that count.

        Raises:
            ValueError: If two answers begin with the same token.
        """
        if answers not in self._answers:
            self._answers[answers] = answer_tokens(answers, self._encode)
        return self._answers[answers]

    def check_pictures(self, text: str, count: int, size_px: int) -> None:
        """Refuse a model that does not take this many pictures in one question.

        Args:
            text: A question.
            count: How many pictures it is asked about.
            size_px: Side of each.

        Raises:
            UserError: If the processor cannot place them.
        """
        from PIL import Image

        blank = Image.new("RGB", (size_px, size_px), "white")
        problem = "it leaves them out"
        try:
            ids = self.inputs([text], [[blank] * count])["input_ids"][0].tolist()
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            ids, problem = [], " ".join(str(error).split())[:200]
        signs = [getattr(self.config, name, None) for name in ("image_token_id", "image_token_index")]
        known = [sign for sign in signs if isinstance(sign, int)]
        if not ids or (known and not any(sign in ids for sign in known)):
            raise UserError(
                f"The {type(self.processor).__name__} cannot show {count} picture(s) of {size_px} px: {problem}. "
                "Allowed is what the model's processor takes. Write `image_layout: side_by_side` if one picture is all "
                "it takes, or another model."
            )

    def _encode(self, text: str) -> list[int]:
        return self.processor.tokenizer.encode(text, add_special_tokens=False)


class VisionModel:
    """Hold a model in memory and read the probabilities of its next token.

    Args:
        source: Where the model comes from.
        settings: How its weights are held, and where.

    Raises:
        ValueError: If the model cannot be loaded, takes no pictures, or does not fit the device.
    """

    def __init__(self, source: ModelSource, settings: ModelSettings) -> None:
        from transformers import AutoModelForImageTextToText

        self.reader = QuestionReader(source, settings.revision)
        self.model: Any = load_model(AutoModelForImageTextToText.from_pretrained, source, settings)
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def masses(
        self, texts: Sequence[str], pictures: Sequence[Sequence[Image]], answers: Sequence[tuple[str, ...]]
    ) -> list[list[float]]:
        """Return, per question, the probability that the model goes on with each of its answers.

        m_i = sum of softmax(logits)_t over the tokens t that begin a spelling of answer i and of no other.

        Args:
            texts: One question each.
            pictures: Equally many for each question.
            answers: All answers that count, per question.
        """
        import torch

        tokens = [self.reader.tokens(counted) for counted in answers]
        inputs = self.reader.inputs(texts, pictures).to(self.model.device, dtype=self.model.dtype)
        with torch.no_grad():
            probabilities = self._last_logits(inputs).float().softmax(dim=-1).cpu()
        return [
            [float(row[sorted(starts)].double().sum()) for starts in of_question]
            for of_question, row in zip(tokens, probabilities, strict=True)
        ]

    def _last_logits(self, inputs: Any) -> torch.Tensor:
        """Return [questions, vocabulary] logits after the last token of each question."""
        import torch

        ends = inputs["attention_mask"].sum(dim=1) - 1  # [questions]; padding is on the right
        if self._keeps_logits:  # [questions, few distinct ends, vocabulary] rather than every position
            kept, place = torch.unique(ends, return_inverse=True)
            logits = self.model(**inputs, use_cache=False, logits_to_keep=kept).logits
        else:
            place, logits = ends, self.model(**inputs, use_cache=False).logits
        return logits[torch.arange(len(ends), device=ends.device), place]
