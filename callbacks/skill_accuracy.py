"""Headline figures: how often held-out prompts are drawn as written, by a reader of the user's choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from evolvedirector.callbacks._run.drawing import draw_share, encode_png
from evolvedirector.callbacks._run.held_out import (
    held_out_prompts,
    joined_readings,
    size_to_draw_px,
    training_ends,
    warn_of_training_judge,
)
from evolvedirector.callbacks._run.to_loggers import log_figures
from evolvedirector.errors import UserError
from evolvedirector.evaluation.prompt_choice import all_sized, requests_to_draw, unknown_size
from evolvedirector.evaluation.shares import Share, mean_of_shares, share_of_prompts
from evolvedirector.evolution import ImageGenerator
from evolvedirector.judges.judge import Judge
from evolvedirector.planning.roles import PlannedRun
from evolvedirector.planning.spending import Reader
from evolvedirector.records import UNLABELLED, ImageAndPrompt, ImageRequest
from evolvedirector.records.looks import reading_of
from evolvedirector.records.part import Part

AnswerRead = tuple[str, str, bool]
"""Skill, prompt id, and whether the image showed the prompt."""


class SkillAccuracy(pl.Callback):
    """Check every image of the validation and test loops against its prompt; report the share that shows it, by skill.

    The held-out prompts are the datamodule's: no operation of evolution may touch them. Logged as `accuracy/<skill>`
    and `accuracy/mean` (mean over skills, GenEval's convention). When training ends, `seeds_per_prompt` images of each
    prompt are drawn with averaged weights and read once more (logged as `final_accuracy/<skill>`): that is what
    `summary.json` keeps, with 95 % intervals that take the prompts, not the images, for independent. A reply that the
    reader never gives counts as not shown. A reader that breaks during a training costs the reading (a warning), not
    the run; where the size of the images is unknown, the last reading is left out.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.SkillAccuracy
          init_args:
            reader: {class_path: evolvedirector.worlds.shapes.MiniatureJudge}
            seeds_per_prompt: 4
        ```
    """

    def __init__(self, reader: Judge, seeds_per_prompt: int = 1, seed: int = 0) -> None:
        """Set who reads, and how thoroughly at the end.

        Args:
            reader: Judge of single images; use another than the training judge, or its errors are measured as success.
            seeds_per_prompt: Images of each held-out prompt in the last reading; 1 takes the validation's own images
                where that ran after the last step.
            seed: Root of the seeds of the last reading.

        Raises:
            UserError: A number below 1.
        """
        super().__init__()
        if seeds_per_prompt < 1:
            raise UserError(
                f"seeds_per_prompt is {seeds_per_prompt}. Allowed: 1 or more. Write `seeds_per_prompt: 4`, say."
            )
        self.reader = reader
        self.seeds_per_prompt = seeds_per_prompt
        self.seed = seed
        self.accuracy: dict[str, float] | None = None
        self._figures: dict[str, Any] = {}
        self._readings: dict[str, AnswerRead] = {}
        self._skills: dict[str, str] = {}  # by prompt id
        self._read_at: tuple[int, int] = (-1, 0)  # global step and images per prompt of the last reading
        self._tried_step = -1  # global step of the last attempt at a thorough reading
        self._error = ""  # why the reader broke off in the validation that runs

    def state_dict(self) -> dict[str, Any]:
        """Keep the last figures, so that a resumed run that ends at once still reports them."""
        return {"accuracy": self.accuracy, "figures": self._figures, "read_at": list(self._read_at)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the last figures."""
        self.accuracy = state_dict["accuracy"]
        self._figures = state_dict.get("figures", {})
        step, images = state_dict.get("read_at", (-1, 0))
        self._read_at = (step, images)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Warn when the reader chooses the training data too."""
        if stage == "fit":
            warn_of_training_judge(trainer, self.reader, "SkillAccuracy.reader")

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a reading of all held-out prompts."""
        self._readings, self._error = {}, ""
        self._skills = {prompt.id: prompt.skill for prompt in held_out_prompts(trainer)}

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
        drawn = _encoded(outputs, batch)
        named = {
            key: (self._skills.get(key, UNLABELLED), key) for key, _, _ in drawn
        }  # a request is named by its prompt
        if self._error:
            return
        readings, self._error = self._read(drawn, named, strict=not _trains(trainer))
        self._readings |= readings

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the accuracy by skill."""
        if trainer.sanity_checking:  # a few prompts before training are no figure
            return
        readings = joined_readings(self._readings, self._error, "SkillAccuracy of this validation")
        if readings is None:
            return
        self._keep(readings)
        self._read_at = (trainer.global_step, 1)
        for name, value in self._named("accuracy").items():
            pl_module.log(name, torch.tensor(value), prog_bar=name == "accuracy/mean", rank_zero_only=True)

    # the test loop is read as the validation loop is
    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read thoroughly when this was the last epoch, before the last checkpoint is saved."""
        if training_ends(trainer):
            self._read_thoroughly(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read thoroughly if training ended elsewhere than at the end of an epoch."""
        self._read_thoroughly(trainer, pl_module)

    def summary_entries(self) -> dict[str, Any]:
        """Return this callback's part of `summary.json`."""
        return dict(self._figures) if self.accuracy else {}

    def parts(self) -> dict[str, Part]:
        """Name the reader, for those who verify and size it."""
        return {"reader": self.reader}

    def planned_looks(self, run: PlannedRun) -> list[Reader]:
        """Count one look for each held-out prompt of a validation, and one for each image of the last reading."""
        readings = None if run.validations is None else run.validations + self.seeds_per_prompt
        looks = None if readings is None else run.held_out_prompts * readings
        return [Reader("SkillAccuracy.reader", self.reader, looks)]

    def _read_thoroughly(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        step, images_per_prompt = self._read_at
        known = step == trainer.global_step and images_per_prompt >= self.seeds_per_prompt
        tried = self._tried_step == trainer.global_step
        if known or tried or trainer.limit_val_batches == 0 or not isinstance(module, ImageGenerator):
            return
        self._tried_step = trainer.global_step
        prompts, size_px = held_out_prompts(trainer), size_to_draw_px(trainer, module)
        if not prompts:
            return
        if not all_sized(prompts, size_px):
            rank_zero_warn(f"What validation read stays. {unknown_size(type(module).__name__, 'SkillAccuracy')}")
            return
        asked = requests_to_draw(prompts, self.seeds_per_prompt, self.seed, size_px, "held out")
        drawn = draw_share(trainer, module, [request for request, _ in asked.values()])
        named = {key: (prompt.skill, prompt.id) for key, (_, prompt) in asked.items()}
        items = [(key, image, asked[key][0].prompt) for key, image in drawn.items()]
        own, error = self._read(items, named, strict=False)
        readings = joined_readings(own, error, "The last reading of SkillAccuracy")
        if readings is None:
            return
        self._keep(readings)
        self._read_at = (trainer.global_step, self.seeds_per_prompt)
        log_figures(trainer, self._named("final_accuracy"))

    def _read(
        self, drawn: Iterable[tuple[str, bytes, str]], named: Mapping[str, tuple[str, str]], strict: bool
    ) -> tuple[dict[str, AnswerRead], str]:
        """Read images; returns what was read, and why the reader broke off (an error where `strict`)."""
        items = [ImageAndPrompt(key, image, prompt) for key, image, prompt in drawn]
        try:
            shown = {look.item_id for look in self.reader.check(items) if reading_of(look) == "shows"}
        except Exception as error:
            if strict:
                raise
            return {}, repr(error)
        return {item.item_id: (*named[item.item_id], item.item_id in shown) for item in items}, ""

    def _keep(self, readings: dict[str, AnswerRead]) -> None:
        if not readings:
            return
        shares = accuracy_by_skill(readings.values())
        mean = mean_of_shares(shares)
        assert mean is not None
        self.accuracy = {skill: round(share.value, 6) for skill, share in shares.items()}
        self._figures = {
            "accuracy": self.accuracy,
            "accuracy_interval": {skill: share.interval for skill, share in shares.items()},
            "accuracy_prompts": {skill: share.prompts for skill, share in shares.items()},
            "accuracy_mean": round(mean.value, 6),
            "accuracy_mean_interval": mean.interval,
        }

    def _named(self, prefix: str) -> dict[str, float]:
        if not self.accuracy:
            return {}
        by_skill = {f"{prefix}/{skill}": value for skill, value in self.accuracy.items()}
        return {**by_skill, f"{prefix}/mean": self._figures["accuracy_mean"]}


def accuracy_by_skill(readings: Iterable[AnswerRead]) -> dict[str, Share]:
    """Return the share of images that show their prompt, by skill, the images of one prompt taken together."""
    tries: dict[str, dict[str, list[float]]] = {}
    for skill, prompt_id, shown in readings:
        tries.setdefault(skill, {}).setdefault(prompt_id, []).append(float(shown))
    shares = {skill: share_of_prompts(list(by_prompt.values())) for skill, by_prompt in sorted(tries.items())}
    return {skill: share for skill, share in shares.items() if share is not None}


def _trains(trainer: pl.Trainer) -> bool:
    """Whether an error would cost a training; before its first step and in a validation alone it had better show."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _encoded(images: Sequence[Tensor], batch: Sequence[ImageRequest]) -> list[tuple[str, bytes, str]]:
    return [(r.request_id, encode_png(image), r.prompt) for image, r in zip(images, batch, strict=True)]
