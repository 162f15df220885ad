"""Headline figures: how often held-out prompts are drawn as written, by a reader of the user's choice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import MeanMetric

from evolvedirector.callbacks.drawing import encode_png
from evolvedirector.evolution.verdicts import verdict_of_check
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, ImageRequest


class SkillAccuracy(pl.Callback):
    """Check every image of the validation and test loops against its prompt; report the share that shows it, by skill.

    The held-out prompts are the datamodule's: no operation of evolution may touch them. Logged as
    `accuracy/<skill>` and `accuracy_mean` (mean over skills, GenEval's convention).

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.SkillAccuracy
          init_args:
            reader: {class_path: evolvedirector.miniature.MiniatureJudge}
        ```
    """

    def __init__(self, reader: Judge) -> None:
        """Set who reads.

        Args:
            reader: Judge of single images; use another than the training judge, or its errors are measured as success.
        """
        super().__init__()
        self.reader = reader
        self.accuracy: dict[str, float] | None = None
        self._shown: dict[str, tuple[str, bool]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Keep the last figures, so that a resumed run that ends at once still reports them."""
        return {"accuracy": self.accuracy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the last figures."""
        self.accuracy = state_dict["accuracy"]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a reading of all held-out prompts."""
        self._shown = {}

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a reading of all held-out prompts."""
        self._shown = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Check the images of one batch."""
        self._read(trainer, outputs, batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Check the images of one batch."""
        self._read(trainer, outputs, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the accuracy by skill."""
        self._report(pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the accuracy by skill."""
        self._report(pl_module)

    def summary_entries(self) -> dict[str, Any]:
        """Return this callback's part of `summary.json`."""
        if not self.accuracy:
            return {}
        return {"accuracy": self.accuracy, "accuracy_mean": sum(self.accuracy.values()) / len(self.accuracy)}

    def _read(self, trainer: pl.Trainer, images: Sequence[Tensor], batch: Sequence[ImageRequest]) -> None:
        skills = _skills_of(trainer)
        items = [
            ImageAndPrompt(request.request_id, encode_png(image), request.prompt)
            for image, request in zip(images, batch, strict=True)
        ]
        for look in self.reader.check(items):
            self._shown[look.item_id] = (skills.get(look.item_id, "unlabelled"), verdict_of_check(look) == "student")

    def _report(self, module: pl.LightningModule) -> None:
        self.accuracy = accuracy_by_skill(_from_all_ranks(self._shown))
        for skill, value in self.accuracy.items():
            module.log(f"accuracy/{skill}", torch.tensor(value), rank_zero_only=True)
        if self.accuracy:
            mean = sum(self.accuracy.values()) / len(self.accuracy)
            module.log("accuracy_mean", torch.tensor(mean), prog_bar=True, rank_zero_only=True)


def accuracy_by_skill(shown: Mapping[str, tuple[str, bool]]) -> dict[str, float]:
    """Return the share of prompts shown, by skill, from (skill, shown) by prompt."""
    metrics: dict[str, MeanMetric] = defaultdict(MeanMetric)
    for skill, right in shown.values():
        metrics[skill].update(float(right))
    return {skill: round(float(metric.compute()), 6) for skill, metric in sorted(metrics.items())}


def _skills_of(trainer: pl.Trainer) -> dict[str, str]:
    prompts = getattr(getattr(trainer, "datamodule", None), "held_out_prompts", None)
    return {prompt.id: prompt.skill for prompt in prompts()} if prompts else {}


def _from_all_ranks(own: dict[str, tuple[str, bool]]) -> dict[str, tuple[str, bool]]:
    # By prompt id: the last chunk is padded with prompts that another rank has drawn too.
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return own
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    return {key: value for part in parts for key, value in part.items()}
