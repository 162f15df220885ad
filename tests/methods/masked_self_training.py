"""A sixth method, through public hooks only: the frozen student draws inside masks, a reward keeps the best of K.

Prompts are written, a frozen copy of the student draws each of them K times, each time inside a mask of its own; every
image is scored with its mask; the best one enters the dataset together with its mask, and the student trains on both,
first with the text alone, then whole.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from evolvedirector.lightning_modules import FlowMatching, TextToImage
from evolvedirector.policies.policy import RunSize
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    FileRef,
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    RoundInfo,
    RoundPlan,
    Score,
    TrainingMix,
    WriteRequest,
)
from tests.methods.masked_family import MaskedFamily

SIDE_PX = 8
WEIGHTS = "student.safetensors"


def student(**settings: object) -> TextToImage:
    """Build the student; the self-teacher is another one with the weights of an exported folder."""
    return TextToImage(
        MaskedFamily(),
        FlowMatching(),
        SIDE_PX,
        guidance_scale=1.0,
        sampling_steps=2,
        generation_chunk_size=2,
        **settings,
    )


def export(module: TextToImage, folder: Path) -> None:
    """Freeze the student into a folder."""
    module.configure_model()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(module.transformer.state_dict(), folder / WEIGHTS)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def mask_of(seed: int) -> FileRef:
    """Return the half in which the picture of a seed is drawn, as a file of the role `mask`."""
    pixels = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    pixels[:, : SIDE_PX // 2] = 255 if seed % 2 else 0
    pixels[:, SIDE_PX // 2 :] = 0 if seed % 2 else 255
    return FileRef.of(png(pixels), "image/png", SIDE_PX, SIDE_PX)


class SelfTeacher:
    """The student of an exported folder as a teacher: loads where it works, draws inside masks, hands them along.

    Args:
        folder: Of `export`.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._student: TextToImage | None = None
        self.drawn = 0

    @property
    def fingerprint(self) -> str:
        return f"self-{self.folder}"

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        if self._student is None:
            self._student = student()
            self._student.configure_model()
            self._student.transformer.load_state_dict(load_file(Path(self.folder, WEIGHTS)))
        masks = [mask_of(request.seed) for request in requests]
        masked = [replace(request, files={"mask": mask}) for request, mask in zip(requests, masks, strict=True)]
        images = self._student.generate(masked)
        for request, mask, image in zip(requests, masks, images, strict=True):
            self.drawn += 1
            content = png(image.permute(1, 2, 0).numpy())
            yield ImageReply(request.request_id, "image", content, files={"mask": mask})

    def close(self) -> None:
        self._student = None


class InsideBrightness:
    """A reward that needs the mask: how bright an image is inside of it."""

    fingerprint = "brightness inside the mask"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        for item in items:
            mask = item.files.get("mask")
            if mask is None or mask.content is None:
                yield Score(item.item_id, math.nan, "no mask")
                continue
            inside = np.asarray(Image.open(io.BytesIO(mask.content))) > 127
            pixels = np.asarray(Image.open(io.BytesIO(item.image)).convert("L"))
            yield Score(item.item_id, float(pixels[inside].mean()))


class BestOfKInMasks:
    """Write three prompts a round, let the self-teacher draw K images of each, keep the best one of each prompt.

    Args:
        images_per_prompt: K.
    """

    checks_seeds = False

    def __init__(self, images_per_prompt: int = 3) -> None:
        self.images_per_prompt = images_per_prompt
        self.seen: list[Evidence] = []

    @property
    def fingerprint(self) -> str:
        return f"best-of-k-in-masks-1/{self.images_per_prompt}"

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        write = WriteRequest(f"write {round.round_id}", "mutation", None, "tone", 3, round.index)
        return RoundPlan(
            write=(write,),
            screen=False,
            score_candidates=True,
            drawn_by="self",
            images_per_prompt=self.images_per_prompt,
        )

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        scored = [item for item in evidence if item.kind == "score"]
        self.seen += scored
        best: dict[str, Evidence] = {}
        for item in scored:
            kept = best.get(item.prompt_id)
            if kept is None or item.scores["inside"] > kept.scores["inside"]:
                best[item.prompt_id] = item
        return [Decision("buy", key, image_sha256=item.teacher_sha256) for key, item in best.items()]

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        return None

    def most_looks(self, size: RunSize) -> int | None:
        return 0


class Stages(pl.Callback):
    """Train in stages: up to a step the text path alone, then all weights.

    Args:
        whole_from_step: Optimizer step at which everything is trained.
    """

    def __init__(self, whole_from_step: int) -> None:
        self.whole_from_step = whole_from_step
        self.order: list[str] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        whole = trainer.global_step >= self.whole_from_step
        for name, parameter in pl_module.named_parameters():
            parameter.requires_grad = whole or "modulation" in name
        self.order.append("whole" if whole else "text")
