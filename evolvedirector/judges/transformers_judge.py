"""A vision-language model of the transformers library as judge: one forward pass, the answer read as probabilities."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from evolvedirector.evolution.verdicts import MIN_COVERED_MASS
from evolvedirector.judges.answer_tokens import answer_of_masses, answer_tokens, unread
from evolvedirector.judges.judge_images import check_size, judge_image, side_by_side_image
from evolvedirector.judges.model_loading import (
    Dtype,
    Quantisation,
    load_config,
    load_model,
    model_digest,
    rank_device,
)
from evolvedirector.judges.questions import (
    CHECK_QUESTION,
    PAIR_QUESTION,
    SIDE_BY_SIDE_QUESTION,
    Answer,
    Question,
    check_question,
    look_of_answer,
    pair_question,
)
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair, digest
from evolvedirector.store.errors import StoreError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class TransformersJudge:
    """Judge images by any image-text-to-text model of the transformers library."""

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
        check_size(image_size_px)
        self.model = model
        self.revision = revision
        self.dtype: Dtype = dtype
        self.quantisation: Quantisation | None = quantisation
        self.batch_size = batch_size
        self.image_layout = image_layout
        self.image_size_px = image_size_px
        self.check_template = check_template
        side = image_layout == "side_by_side"
        self.pair_template = pair_template or (SIDE_BY_SIDE_QUESTION if side else PAIR_QUESTION)
        self.min_covered_mass = min_covered_mass
        self.device = device
        self._model: Any = None
        self._processor: Any = None
        self._digest = ""

    @property
    def fingerprint(self) -> str:
        """Name the model, its weights and every parameter that changes its answers."""
        self._digest = self._digest or model_digest(self.model, self.revision)
        settings = (self.dtype, self.quantisation, self.image_layout, self.image_size_px, self.min_covered_mass)
        templates = (self.check_template, self.pair_template)
        return f"transformers-1/{self.model.rstrip('/').rsplit('/', 1)[-1]}/{digest(self._digest, repr(settings), *templates)}"

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt."""
        yield from map(look_of_answer, self.answer([check_question(item, self.check_template) for item in items]))

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better."""
        yield from map(look_of_answer, self.answer([pair_question(pair, self.pair_template) for pair in pairs]))

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Yield one answer per question, in their order."""
        for _, group in groupby(questions, key=lambda question: len(question.images)):
            same = list(group)
            for start in range(0, len(same), self.batch_size):
                yield from self._answer_batch(same[start : start + self.batch_size])

    def close(self) -> None:
        """Free the model's memory; the next question loads it again."""
        self._model = self._processor = None

    def _answer_batch(self, batch: Sequence[Question]) -> list[Answer]:
        shown: list[tuple[Question, list[Image]]] = []
        answers: dict[int, Answer] = {}
        places = []
        for place, question in enumerate(batch):
            try:
                shown.append((question, self._pictures(question)))
                places.append(place)
            except StoreError as error:
                answers[place] = unread(question.item_id, question.answers, str(error))
        if shown:
            for place, (question, _), masses in zip(places, shown, self._masses(shown), strict=True):
                answers[place] = answer_of_masses(question.item_id, question.answers, masses, self.min_covered_mass)
        return [answers[place] for place in range(len(batch))]

    def _pictures(self, question: Question) -> list[Image]:
        if self.image_layout == "side_by_side" and len(question.images) == 2:
            return [side_by_side_image(*question.images, self.image_size_px)]
        return [judge_image(image, self.image_size_px) for image in question.images]

    def _masses(self, shown: Sequence[tuple[Question, list[Image]]]) -> list[list[float]]:
        """Return, per question, the probability of each of its answers as the next token."""
        import torch

        self._load()
        encode = self._encode
        texts = [self._text(question.text, len(pictures)) for question, pictures in shown]
        inputs = self._processor(
            text=texts,
            images=[pictures for _, pictures in shown],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=not texts[0].startswith(self._processor.tokenizer.bos_token or "\0"),
        ).to(self._model.device, dtype=self._model.dtype)
        ends = inputs["attention_mask"].sum(dim=1) - 1
        with torch.no_grad():
            logits = self._last_logits(inputs, ends)
        probabilities = logits.float().softmax(dim=-1).cpu()
        return [
            [float(row[sorted(tokens)].sum()) for tokens in answer_tokens(question.answers, encode)]
            for (question, _), row in zip(shown, probabilities, strict=True)
        ]

    def _last_logits(self, inputs: Any, ends: torch.Tensor) -> torch.Tensor:
        """Return [batch, vocabulary] logits after the last token of each question."""
        import torch

        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            kept, place = torch.unique(ends, return_inverse=True)
            logits = self._model(**inputs, use_cache=False, logits_to_keep=kept).logits
        else:
            place = ends
            logits = self._model(**inputs, use_cache=False).logits
        return logits[torch.arange(len(ends), device=ends.device), place]

    def _text(self, text: str, pictures: int) -> str:
        content = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def _encode(self, text: str) -> list[int]:
        return self._processor.tokenizer.encode(text, add_special_tokens=False)

    def _load(self) -> None:
        if self._model is not None:
            return
        from transformers import AutoModelForImageTextToText, AutoProcessor

        load_config(self.model, self.revision)
        self._processor = AutoProcessor.from_pretrained(self.model, revision=self.revision, trust_remote_code=False)
        load = AutoModelForImageTextToText.from_pretrained
        device = rank_device(self.device)
        self._model = load_model(load, self.model, self.revision, self.dtype, self.quantisation, device)
