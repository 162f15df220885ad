"""What the tests of training share: a tiny network that is awake, and batches that resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from evolvedirector.lightning_modules import PixArt, RandomTextEncoder

SIDE = 8
_PLACE = "evolvedirector.lightning_modules"


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


def student_tree(**changes: Any) -> dict[str, Any]:
    """Return a tiny student as YAML holds it.

    Args:
        changes: Numbers of its network.
    """
    numbers = {"text_length": 4, "patch_size": 4, "layers": 2, "heads": 2, "head_dim": 16} | changes
    encoder = {"class_path": f"{_PLACE}.RandomTextEncoder", "init_args": {"dimension": 16}}
    family = {"text_encoder": encoder, "sample_size": SIDE, **numbers}
    return {
        "class_path": f"{_PLACE}.TextToImage",
        "init_args": {
            "family": {"class_path": f"{_PLACE}.PixArt", "init_args": family},
            "objective": {"class_path": f"{_PLACE}.FlowMatching"},
            "image_size_px": SIDE, "sampling_steps": 2, "generation_chunk_size": 4, "guidance_scale": 1.5,
        },
    }  # fmt: skip


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
