"""A student whose experts change what it paints in ways that can be computed, and evaluators that measure them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from evolvedirector.experts import LoRA
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.expert_files import write_expert
from evolvedirector.experts.lora import inject
from evolvedirector.experts.merge import product_mean
from evolvedirector.experts.network_experts import NetworkExperts
from evolvedirector.experts.trained import Trained
from evolvedirector.records import ImageAndPrompt, ImageRequest, Prompt, Score
from tests import toys
from tests.callbacks import held_out_toys
from tests.callbacks.held_out_toys import HeldOutData

HELD_OUT = [Prompt.create(f"tone {tone}", skill="dark" if tone < 100 else "light") for tone in (40, 60, 110, 120)]
CHANGES = {"bright": [0.2, 0.2, 0.2], "red": [0.1, -0.2, -0.2]}
"""What each expert adds to red, green and blue, over the tone; in parts of it."""


class Network(nn.Module):
    """Red, green and blue of a tone and a little noise."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 3, bias=False)
        with torch.no_grad():
            self.line.weight.copy_(torch.tensor([[1.0, 0.05], [1.0, 0.03], [1.0, 0.01]]))


class Painter(toys.ToyStudent):
    """Paints what its network says; remembers how many images it was asked for."""

    def __init__(self, adapters: Sequence[str] = tuple(CHANGES)) -> None:
        super().__init__(learning_rate=0.0)
        self.network, self.asked, self.trained = Network(), 0, Trained(LoRA(1), experts=list(adapters))
        if adapters:
            inject(self.network, {name: LoRA(1) for name in adapters}, adapters[0], ["line"])
        for name in adapters:
            expert = expert_named(name)
            for factor, part in zip(expert.factors["line"], ("lora_A", "lora_B"), strict=True):
                getattr(self.network.line, part)[name].weight.data = factor

    def experts(self) -> NetworkExperts:
        return NetworkExperts(self.network, self.trained, "toy", "0" * 12)

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        self.asked += len(requests)
        noise = [torch.rand((), generator=torch.Generator().manual_seed(request.seed)) for request in requests]
        tones = [toys.tone_of(request.prompt) / 255 for request in requests]
        colours = self.network.line(torch.tensor([[tone, float(of)] for tone, of in zip(tones, noise, strict=True)]))
        return [(c * 255).clamp(0, 255).round().to(torch.uint8)[:, None, None].expand(3, 8, 8) for c in colours]


def expert_named(name: str) -> Expert:
    up = torch.tensor(CHANGES[name])[:, None]
    return Expert(name, LoRA(1), {"line": (torch.tensor([[1.0, 0.0]]), up)}, "toy", "0" * 12)


def write_experts(run_folder: Path, merge: bool = True) -> None:
    """Write the files that training leaves behind: two experts and their merge."""
    folder = run_folder / "experts"
    folder.mkdir(parents=True, exist_ok=True)
    experts = [expert_named(name) for name in CHANGES]
    for expert in [*experts, *([product_mean(experts, name="uniform")] if merge else [])]:
        write_expert(expert, folder / f"{expert.name}.safetensors")


class Measures:
    """Score by a weight for each colour; counts what it scored."""

    def __init__(self, name: str, weights: Sequence[float]) -> None:
        self.name, self.weights, self.scored = name, weights, 0

    @property
    def fingerprint(self) -> str:
        return f"toy {self.name} {self.weights}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        for item in items:
            self.scored += 1
            pixels = np.asarray(Image.open(io.BytesIO(item.image)), float).mean((0, 1))
            yield Score(item.item_id, float(pixels @ np.asarray(self.weights)))


def evaluators() -> dict[str, Measures]:
    return {"bright": Measures("bright", (1 / 3, 1 / 3, 1 / 3)), "red": Measures("red", (1.0, -0.5, -0.5))}


class HeldOut:
    """Prompts of the two skills of `staged`."""

    def prompts(self) -> list[Prompt]:
        return [Prompt.create(f"tone {tone}", skill="dark" if tone < 128 else "light") for tone in (3, 99, 130, 251)]


class Data(HeldOutData):
    def __init__(self) -> None:
        super().__init__(HELD_OUT)


def trainer_of(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return held_out_toys.trainer_of(folder, *callbacks, **{"limit_val_batches": 0, **options})
