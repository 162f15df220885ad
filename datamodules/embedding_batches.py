"""Embeddings as batches: token states of unequal lengths padded under a mask, and numbers that are finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evolvedirector.datamodules.batches import collate
from evolvedirector.datamodules.requests import RequestLoader
from evolvedirector.errors import UserError
from evolvedirector.models.embedder import IMAGE_EMBEDDING, TEXT_EMBEDDING, TEXT_MASK, TEXT_STATES


@dataclass(frozen=True)
class EmbeddingCollation:
    """Make a batch of decoded samples with embeddings.

    Args:
        text_tokens: Length of the padded token states. None: that of the longest text in the batch.
    """

    text_tokens: int | None = None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Stack everything but `text_states`, which are padded behind with zeros.

        Args:
            samples: Decoded, each with `text_states` [token, width].

        Returns:
            As `collate` does, with `text_states` float32 [batch, token, width] and `text_mask` bool [batch, token].

        Raises:
            UserError: Widths differ, a text is too long, or a number is not finite.
        """
        states = [sample[TEXT_STATES] for sample in samples]
        self._check(samples, states)
        longest = max(len(each) for each in states)
        length = self.text_tokens or longest
        padded = np.zeros((len(states), length, states[0].shape[1]), np.float32)
        mask = np.zeros((len(states), length), bool)
        for row, each in enumerate(states):
            padded[row, : len(each)] = each
            mask[row, : len(each)] = True
        others = [{name: value for name, value in sample.items() if name != TEXT_STATES} for sample in samples]
        batch = collate(others)
        batch |= {TEXT_STATES: torch.from_numpy(padded), TEXT_MASK: torch.from_numpy(mask)}
        _check_finite(batch, samples)
        return batch

    def _check(self, samples: Sequence[dict[str, Any]], states: Sequence[np.ndarray]) -> None:
        first = samples[0]
        width, text, image = states[0].shape[-1], first[TEXT_EMBEDDING].shape, first[IMAGE_EMBEDDING].shape
        for sample, each in zip(samples, states, strict=True):
            fits = each.ndim == 2 and each.shape[1] == width
            if not fits or sample[TEXT_EMBEDDING].shape != text or sample[IMAGE_EMBEDDING].shape != image:
                raise UserError(
                    f"The embeddings of the sample {sample['key']!r} have the shapes {_shapes(sample)}, those of "
                    f"{first['key']!r} {_shapes(first)}. Allowed is one embedder for all samples: [token, width] and "
                    "[embedding]. Run `evolvedirector embed ROOT --replace` with the one that is wanted."
                )
            if self.text_tokens is not None and len(each) > self.text_tokens:
                raise UserError(
                    f"The text of the sample {sample['key']!r} has {len(each)} tokens, but text_tokens is "
                    f"{self.text_tokens}. Texts are cut where they are embedded. Write `text_tokens: {len(each)}` or "
                    "more, or leave it out."
                )


def _shapes(sample: dict[str, Any]) -> str:
    return ", ".join(f"{role} {tuple(sample[role].shape)}" for role in (TEXT_STATES, TEXT_EMBEDDING, IMAGE_EMBEDDING))


def _check_finite(batch: dict[str, Any], samples: Sequence[dict[str, Any]]) -> None:
    for role in (TEXT_STATES, TEXT_EMBEDDING, IMAGE_EMBEDDING):
        if torch.isfinite(batch[role].sum()):  # one number for all: a sum of finite float32 of CLIP's size is finite
            continue
        broken = [sample["key"] for sample in samples if not np.isfinite(sample[role]).all()]
        if broken:
            raise UserError(
                f"The {role} of the sample {broken[0]!r} has numbers that are not finite. Allowed are finite ones. Run "
                "`evolvedirector embed ROOT --replace` with an embedder in float32, or retire the sample."
            )


class PairsBehindRequests:
    """Requests for images, and behind them pairs to measure on, as one sized loader.

    Args:
        requests: For held-out prompts; may be none.
        batches: Number of the batches of pairs.
        read: Reads them.
    """

    def __init__(self, requests: RequestLoader, batches: int, read: Callable[[], Iterator[dict[str, Any]]]) -> None:
        self._requests = requests
        self._batches = batches
        self._read = read

    def __len__(self) -> int:
        return len(self._requests) + self._batches

    def __iter__(self) -> Iterator[Any]:
        yield from self._requests
        yield from self._read()
