"""What the student could once do: mastered prompts, drawn and read again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from evolvedirector.callbacks._run.drawing import draw_share
from evolvedirector.callbacks._run.held_out import (
    joined_readings,
    reading_is_due,
    size_to_draw_px,
    warn_of_training_judge,
)
from evolvedirector.callbacks._run.host_checks import evolving_data_of
from evolvedirector.callbacks._run.to_loggers import log_figures
from evolvedirector.evaluation.prompt_choice import requests_to_draw, spread_over_skills, unknown_size
from evolvedirector.evaluation.shares import share_of_prompts
from evolvedirector.evolution import ImageGenerator
from evolvedirector.judges.judge import Judge
from evolvedirector.planning.roles import PlannedRun
from evolvedirector.planning.spending import Reader
from evolvedirector.records import ImageAndPrompt, Prompt, Reading
from evolvedirector.records.looks import reading_of
from evolvedirector.records.part import Part
from evolvedirector.store.revision import RevisionFiles


class Forgetting(pl.Callback):
    """Draw mastered prompts with fresh seeds when training ends; report the share that the student fails now.

    Mastered prompts get no more looks from evolution until they are probed, so a policy could lose them unnoticed.
    Contributes `forgetting` to `summary.json`: the share failed, its 95 % interval, the prompts read, and how many
    readings were unreadable (left out of the share); null while nothing is mastered. Only files are read, never the
    ledger, so it disturbs no running round. A reader that breaks costs the figure (a warning), not the run.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.Forgetting
          init_args:
            reader: {class_path: evolvedirector.worlds.shapes.MiniatureJudge}
        ```
    """

    def __init__(
        self,
        reader: Judge,
        max_prompts: int = 64,
        every_n_epochs: int | None = None,
        seed: int = 0,
        data: str | None = None,
    ) -> None:
        """Set who reads how much.

        Args:
            reader: Judge of single images; use another than the training judge, or its errors are measured as success.
            max_prompts: Mastered prompts at most, spread over skills.
            every_n_epochs: Epochs between further readings. None: only when training ends.
            seed: Root of the choice of prompts and of the seeds.
            data: Attribute of the datamodule that holds the evolving data. None: the datamodule itself.

        Raises:
            ValueError: A number below 1.
        """
        super().__init__()
        for name, value in (("max_prompts", max_prompts), ("every_n_epochs", every_n_epochs)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}. Allowed: 1 or more. Write `{name}: 16`, say.")
        self.reader = reader
        self.max_prompts = max_prompts
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self.data = data
        self.forgetting: dict[str, Any] | None = None
        self._read_step = -1

    @property
    def state_key(self) -> str:
        """Tell several instances apart by the data they read."""
        return f"Forgetting[{self.data or ''}]"

    def state_dict(self) -> dict[str, Any]:
        """Keep the last figures, so that a run that is over reports them again."""
        return {"forgetting": self.forgetting, "read_step": self._read_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the last figures."""
        self.forgetting, self._read_step = state_dict["forgetting"], state_dict["read_step"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a host without mastered prompts; warn when the reader chooses the training data too.

        Raises:
            RuntimeError: The data does not evolve, or the size of the images is unknown.
        """
        if stage != "fit":
            return
        try:
            evolving_data_of(trainer, self.data)
        except RuntimeError as error:
            raise RuntimeError(f"Forgetting reads the mastered prompts of an evolving dataset. {error}") from None
        if size_to_draw_px(trainer, pl_module, self.data) is None and isinstance(pl_module, ImageGenerator):
            raise RuntimeError(unknown_size(type(pl_module).__name__, "Forgetting"))
        warn_of_training_judge(trainer, self.reader, "Forgetting.reader")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read when a reading is due, and when this was the last epoch, before the last checkpoint is saved."""
        if reading_is_due(trainer, self.every_n_epochs):
            self._read(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read if training ended elsewhere than at the end of an epoch."""
        self._read(trainer, pl_module)

    def summary_entries(self) -> dict[str, Any]:
        """Return this callback's part of `summary.json`."""
        return {"forgetting": self.forgetting}

    def parts(self) -> dict[str, Part]:
        """Name the reader, for those who verify and size it."""
        return {"reader": self.reader}

    def planned_looks(self, run: PlannedRun) -> list[Reader]:
        """Count one look for each mastered prompt of a reading."""
        readings = run.readings(self.every_n_epochs)
        return [Reader("Forgetting.reader", self.reader, None if readings is None else self.max_prompts * readings)]

    def _read(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._read_step == trainer.global_step or not isinstance(module, ImageGenerator):
            return
        self._read_step = trainer.global_step
        prompts = spread_over_skills(self._mastered(trainer), self.max_prompts, self.seed)
        self.forgetting = None
        if not prompts:
            return
        size_px = size_to_draw_px(trainer, module, self.data)
        asked = requests_to_draw(prompts, 1, self.seed, size_px, f"forgetting at {trainer.global_step}")
        drawn = draw_share(trainer, module, [request for request, _ in asked.values()])
        items = [ImageAndPrompt(key, image, asked[key][0].prompt) for key, image in drawn.items()]
        own, error = self._readings(items)
        readings = joined_readings(own, error, "Forgetting")
        if readings is None:
            return
        self.forgetting = forgetting_figures(list(readings.values()))
        log_figures(trainer, {"accuracy/forgotten": self.forgetting["share"]})

    def _readings(self, items: Sequence[ImageAndPrompt]) -> tuple[dict[str, Reading], str]:
        """Read this rank's images, a reply that never comes being unreadable; returns why the reader broke off too."""
        readings: dict[str, Reading] = {item.item_id: "unreadable" for item in items}
        try:
            readings |= {k.item_id: reading_of(k) for k in self.reader.check(items) if k.item_id in readings}
        except Exception as error:
            return {}, repr(error)
        return readings, ""

    def _mastered(self, trainer: pl.Trainer) -> list[Prompt]:
        host = evolving_data_of(trainer, self.data)
        files = RevisionFiles(host.data_root)
        state = files.load(files.resolve(host.revision_sha)).state
        return [entry.prompt for entry in state.in_state("mastered")]


def forgetting_figures(readings: list[Reading]) -> dict[str, Any]:
    """Return the share of mastered prompts that the student fails, with its 95 % interval."""
    readable = [reading for reading in readings if reading != "unreadable"]
    share = share_of_prompts([[float(reading == "lacks")] for reading in readable])
    return {
        "share": None if share is None else round(share.value, 6),
        "interval": None if share is None else share.interval,
        "prompts": len(readable),
        "unreadable": len(readings) - len(readable),
    }
