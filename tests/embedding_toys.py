"""A joint embedding that is computed by hand: a text is its words, an image its mean colour."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence

import torch
from torch import Tensor

from evolvedirector.models.embedder import TextEmbeddings
from evolvedirector.records import seed_of
from evolvedirector.records.condition import Tokens


class ToyEmbedder:
    """States from the words of a text, at most `longest` of them, behind a mark of beginning.

    Args:
        name: Part of the fingerprint, and of every value.
        longest: Tokens that are read.
        width: Of states and joint space.
        dies_at: Number of the call at which the process kills itself. None: never.
        breaks: Say nan of texts with this word. None: of none.
    """

    def __init__(
        self, name: str = "toy", longest: int = 6, width: int = 4, dies_at: int | None = None, breaks: str | None = None
    ) -> None:
        self.name, self.max_tokens, self.dies_at, self.breaks = name, longest, dies_at, breaks
        self.embedding_dim = self.text_width = width
        self.texts: list[str] = []
        self.images: list[Tensor] = []
        self._calls = 0

    @property
    def fingerprint(self) -> str:
        return f"toy embedder {self.name}"

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        self._count()
        self.texts += texts
        words = [["<", *text.split()] for text in texts]
        states = torch.zeros(len(texts), self.max_tokens, self.text_width)
        mask = torch.zeros(len(texts), self.max_tokens, dtype=torch.bool)
        for row, each in enumerate(words):
            for place, word in enumerate(each[: self.max_tokens]):
                states[row, place], mask[row, place] = self.value(word), True
        return TextEmbeddings(Tokens(states, mask), states.sum(1), tuple(len(w) > self.max_tokens for w in words))

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return [(0, 0), *(match.span() for match in re.finditer(r"\S+", text))][: self.max_tokens]

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        self._count()
        self.images += images
        means = [image.float().mean((1, 2)) / 255 for image in images]
        return torch.stack([torch.cat([mean, torch.ones(self.embedding_dim - 3)]) for mean in means])

    def value(self, word: str) -> Tensor:
        if word == self.breaks:
            return torch.full((self.text_width,), torch.nan)
        return torch.tensor([seed_of(self.name, word, n) % 1000 / 500 - 1 for n in range(self.text_width)])

    def _count(self) -> None:
        self._calls += 1
        if self._calls == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
