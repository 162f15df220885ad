"""A world small enough to compute by hand: the prompt `tone 200` asks for a flat picture of brightness 200."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evolvedirector.records import (
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    Look,
    OrderedPair,
    Prompt,
    WriteReply,
    WriteRequest,
    seed_of,
)


def tone_of(prompt: str) -> int:
    return int(prompt.split()[1])


def flat_png(tone: int, size_px: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size_px, size_px), (tone, tone, tone)).save(buffer, "PNG")
    return buffer.getvalue()


def mean_tone(image: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(image))).mean())


class ToyStudent(pl.LightningModule):
    """Brightness = weight * tone + bias, learned from the batch's prompts and images."""

    image_size_px = 8
    generation_chunk_size = 2

    def __init__(self, learning_rate: float = 0.05) -> None:
        super().__init__()
        self.line, self.learning_rate = torch.nn.Linear(1, 1), learning_rate
        torch.nn.init.zeros_(self.line.weight), torch.nn.init.zeros_(self.line.bias)

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        tones = torch.tensor([[tone_of(prompt) / 255] for prompt in batch["prompt"]])
        return (self.line(tones) - batch["image"].float().mean((1, 2, 3))[:, None] / 255).square().mean()

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        tones = self.line(torch.tensor([[tone_of(request.prompt) / 255] for request in requests]))[:, 0]
        return [(t * 255).clamp(0, 255).round().to(torch.uint8).expand(3, 8, 8).contiguous() for t in tones]

    def validation_step(self, batch: list[ImageRequest], batch_idx: int) -> list[Tensor]:
        return self.generate(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.learning_rate)


class ToyTeacher:
    """Draws the tone asked for; refuses some, and remembers what it was asked."""

    def __init__(self, name: str = "toy", refuses: bool = False, cost_usd: float = 0.0) -> None:
        self.name, self.refuses, self.cost_usd, self.asked = name, refuses, cost_usd, []

    @property
    def fingerprint(self) -> str:
        return f"toy teacher {self.name}"

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            self.asked.append(request.prompt)
            image = None if self.refuses else flat_png(tone_of(request.prompt), request.width_px)
            status = "refusal" if self.refuses else "image"
            yield ImageReply(request.request_id, status, image, "no" if self.refuses else "", self.cost_usd)

    def close(self) -> None:
        pass


class ToyJudge:
    """Measures brightness; `mass` below one half makes every look unreadable."""

    fingerprint = "toy judge"

    def __init__(self, mass: float = 1.0) -> None:
        self.mass, self.asked = mass, 0

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        for pair in pairs:
            self.asked += 1
            errors = [abs(mean_tone(image) - tone_of(pair.prompt)) for image in (pair.first, pair.second)]
            yield Look(pair.item_id, 0.9 if errors[0] < errors[1] else 0.1, self.mass)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        for item in items:
            self.asked += 1
            yield Look(item.item_id, 0.9 if abs(mean_tone(item.image) - tone_of(item.prompt)) < 10 else 0.1, self.mass)

    def close(self) -> None:
        pass


class ToyWriter:
    """Writes tones drawn from the request's seed."""

    fingerprint = "toy writer"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        for request in requests:
            tones = [seed_of(request.seed, position) % 256 for position in range(request.count)]
            yield WriteReply(request.request_id, tuple(f"tone {tone}" for tone in tones))


class ToyPrompts:
    """The first seeds."""

    def __init__(self, count: int = 12) -> None:
        self.count = count

    def prompts(self) -> list[Prompt]:
        return [Prompt.create(f"tone {tone * 7 % 256}", skill="tone") for tone in range(self.count)]
