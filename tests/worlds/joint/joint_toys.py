"""A text encoder of the joint world's width without any weights, and a space that was hardly trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evolvedirector.records import seed_of
from evolvedirector.worlds.joint.space_files import save_space
from evolvedirector.worlds.joint.training import SpaceSettings, train_space

WIDTH = 384


class WordStates:
    """One drawn vector per word, whatever stands beside it."""

    dimension = WIDTH

    def __init__(self, name: str = "words") -> None:
        self.name = name

    @property
    def fingerprint(self) -> str:
        return f"toy-{self.name}"

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        states, mask = torch.zeros(len(texts), max_tokens, WIDTH), torch.zeros(len(texts), max_tokens, dtype=torch.bool)
        for row, text in enumerate(texts):
            for place, word in enumerate(["[begin]", *text.replace(",", " ,").split()][:max_tokens]):
                generator = torch.Generator().manual_seed(seed_of(self.name, word))
                states[row, place], mask[row, place] = torch.randn(WIDTH, generator=generator), True
        return states, mask


def write_space(folder: Path, seed: int = 0) -> None:
    networks, record = train_space(WordStates(), SpaceSettings(seed, 2, 24, 8, gate_images=12), lambda line: None)
    save_space(folder, networks, record)
