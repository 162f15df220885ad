"""Many questions behind one picture: how the tiny vision-language model sees a dozen answers for one encoding.

Each question sees the picture and itself only, at the positions it would have alone: packed and single questions have
the same logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import AyaVisionForConditionalGeneration, PreTrainedTokenizerFast

from benchmarks.tiny_vlm_eyes import patch_targets, to_pixel_values
from benchmarks.tiny_vlm_model import IMAGE_TOKENS
from benchmarks.tiny_vlm_pictures import Picture
from benchmarks.tiny_vlm_questions import Taught


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences of pictures with many questions each."""

    pixel_values: Tensor
    """picture x 3 x height x width; `pictures_each` in a row belong to one sequence."""
    pictures_each: int
    input_ids: Tensor
    """sequence x token, of the questions alone."""
    segments: Tensor
    """sequence x token: number of the question, -1 where there is none."""
    positions: Tensor
    """sequence x token."""
    where: Tensor
    """answer x 2: sequence and token after which each answer follows."""
    answers: Tensor
    """answer x 2: token ids of the answer and the other answer."""
    shares: Tensor
    """answer: probability of the first of the two."""
    kinds: list[str]
    targets: Tensor
    """picture x patch x 3, for `PatchHeads`."""


class Packer:
    """Pack questions behind their pictures.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self._known[text]

    def pack(
        self,
        groups: Sequence[tuple[Picture, ...]],
        ask: Callable[[tuple[Picture, ...]], Taught | None],
        tokens: int,
    ) -> Packed:
        """Ask about each group of pictures until its sequence is full.

        Args:
            groups: one or two pictures each, all alike.
            ask: returns a question, or None.
            tokens: of questions per sequence.
        """
        each = len(groups[0])
        ids = np.full((len(groups), tokens), self.tokenizer.pad_token_id, dtype=np.int64)
        segments = np.full_like(ids, -1)
        positions = np.zeros_like(ids)
        where: list[tuple[int, int]] = []
        taught: list[Taught] = []
        for row, group in enumerate(groups):
            start, number = 0, 0
            for _ in range(200):
                question = ask(group)
                if question is None:
                    continue
                words = self._ids(question.text)
                end = start + len(words)
                if end > tokens:
                    break
                ids[row, start:end], segments[row, start:end] = words, number
                positions[row, start:end] = each * IMAGE_TOKENS + np.arange(len(words))
                where.append((row, end - 1))
                taught.append(question)
                start, number = end, number + 1
        answers = [(self._ids(q.answer)[0], self._ids(q.other or q.answer)[0]) for q in taught]
        pictures = [picture for group in groups for picture in group]
        return Packed(
            to_pixel_values(pictures),
            each,
            torch.from_numpy(ids),
            torch.from_numpy(segments),
            torch.from_numpy(positions),
            torch.tensor(where),
            torch.tensor(answers),
            torch.tensor([q.share for q in taught], dtype=torch.float32),
            [q.kind for q in taught],
            patch_targets(pictures),
        )


def attention_mask(segments: Tensor, image_tokens: int) -> Tensor:
    """Return sequence x 1 x query x key: each sees the picture before it and, of the questions, its own.

    Args:
        segments: sequence x token, as in `Packed`.
        image_tokens: in front of the questions.
    """
    count, tokens = segments.shape
    image = torch.full((count, image_tokens), -2)
    every = torch.cat([image, segments], dim=1)
    same = every[:, :, None] == every[:, None, :]
    of_image = (every == -2)[:, None, :]
    total = image_tokens + tokens
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    return ((same | of_image) & causal)[:, None]


def forward(model: AyaVisionForConditionalGeneration, packed: Packed) -> tuple[Tensor, Tensor]:
    """Return the logits at the answers (answer x word) and the states of the vision tower."""
    seen = model.model.get_image_features(
        packed.pixel_values, vision_feature_layer=-1, vision_feature_select_strategy="full", return_dict=True
    )
    images = torch.stack(tuple(seen.pooler_output))  # picture x patch x width
    count = len(packed.input_ids)
    image_tokens = packed.pictures_each * IMAGE_TOKENS
    embedded = model.get_input_embeddings()(packed.input_ids)
    states = model.model.language_model(
        inputs_embeds=torch.cat([images.reshape(count, image_tokens, -1), embedded], dim=1),
        attention_mask=attention_mask(packed.segments, image_tokens),
        position_ids=torch.cat([torch.arange(image_tokens).expand(count, -1), packed.positions], dim=1),
        use_cache=False,
    ).last_hidden_state
    rows, tokens = packed.where.unbind(1)
    return model.lm_head(states[rows, tokens + image_tokens]), seen.hidden_states[-1]


def answer_losses(logits: Tensor, packed: Packed) -> Tensor:
    """Return the cross-entropy per answer against its share of two words."""
    log_probabilities = logits.log_softmax(dim=-1).gather(1, packed.answers)
    losses: Tensor = -(log_probabilities[:, 0] * packed.shares + log_probabilities[:, 1] * (1 - packed.shares))
    return losses
