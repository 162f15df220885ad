"""A tiny text encoder without training: for tests and dry runs."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = re.compile(r"\w+")


class RandomTextEncoder:
    """Give every word a fixed random vector, plus one for its place in the text.

    Args:
        dimension: dimension of a state.
        vocabulary: number of distinct vectors; words share them by hash.
        seed: names the vectors.
    """

    def __init__(self, dimension: int = 32, vocabulary: int = 512, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._words = torch.randn(vocabulary, dimension, generator=generator)
        self._places = torch.randn(256, dimension, generator=generator) * 0.5
        self._name = f"random-{dimension}-{vocabulary}-{seed}"

    @property
    def fingerprint(self) -> str:
        """Name dimension, vocabulary and seed."""
        return self._name

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        return self._words.shape[1]

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Look the words up; an empty text has the one token of the empty word."""
        states = self._words.new_zeros(len(texts), max_tokens, self.dimension)
        mask = torch.zeros(len(texts), max_tokens, dtype=torch.bool, device=states.device)
        for row, text in enumerate(texts):
            words = ["", *_WORD.findall(text.lower())][:max_tokens]
            index = torch.tensor([zlib.crc32(word.encode()) % len(self._words) for word in words])
            states[row, : len(words)] = self._words[index.to(states.device)] + self._places[: len(words)]
            mask[row, : len(words)] = True
        return states, mask

    def to(self, device: torch.device) -> None:
        """Move the vectors."""
        self._words, self._places = self._words.to(device), self._places.to(device)
