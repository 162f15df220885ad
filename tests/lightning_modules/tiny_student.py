"""What the tests of training share: a tiny network that is awake, and batches that resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from evolvedirector.lightning_modules import PixArt, RandomTextEncoder

SIDE = 8


class Awake(PixArt):
    """A tiny network whose weights are all random: an untrained one of the family begins by predicting zero."""

    def build(self) -> nn.Module:
        network = super().build()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return network


def family(**changes: Any) -> Awake:
    numbers = {"text_length": 4, "patch_size": 4, "layers": 2, "heads": 2, "head_dim": 16} | changes
    return Awake(RandomTextEncoder(16), SIDE, **numbers)


class Batches(list[Any]):
    """Eight batches of four pictures; they say how many were delivered, so that a resume goes on behind them."""

    delivered = 0

    def __init__(self) -> None:
        image = torch.arange(4 * 3 * SIDE * SIDE, dtype=torch.uint8).view(4, 3, SIDE, SIDE)
        seeds = [number * 4 + torch.arange(4) for number in range(8)]
        super().__init__([{"image": image, "prompt": ["a", "b", "c", "d"], "sample_seed": seed} for seed in seeds])

    def __iter__(self) -> Iterator[Any]:
        for batch in self[self.delivered :]:
            self.delivered += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"delivered": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.delivered = state["delivered"]
