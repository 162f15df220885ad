"""What is written wins over what a checkpoint holds: the options of optimizers and learning-rate schedules."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BaseFinetuning

from evolvedirector.callbacks._run.option_changes import told, written_options
from evolvedirector.callbacks._run.settle_options import KEY, copied, settle


class WrittenSettings(pl.Callback):
    """Let what is written for optimizers and learning-rate schedules hold after a resume, and say what changed.

    Lightning takes every option back from the checkpoint, so a new learning rate would be read, saved and never used.
    Here a resume takes from the checkpoint what the optimizer has learned (moments, steps) and the place of the
    schedule; every option is the written one, and a schedule gives the rate that it would give had it been written so
    from the start. Where nothing changed nothing is touched: the resume is exact.

    `evolvedirector fit` adds it by itself. In a script or another LightningCLI put it first into `trainer.callbacks`:
    what it refuses is then refused before anything is bought.

    Example:
        ```yaml
        trainer:
          callbacks:
            - class_path: evolvedirector.callbacks.WrittenSettings
            - class_path: evolvedirector.callbacks.EvolutionCallback
              init_args: {...}
        ```
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[str, Any] | None = None
        self._groups: list[list[dict[str, Any]]] = []  # of the live optimizers, as they were configured
        self._checkpoint: dict[str, Any] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget an earlier run of the same object."""
        self._written, self._groups, self._checkpoint = None, [], None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what is written; with a checkpoint read already, settle what holds before Lightning restores it.

        Raises:
            UserError: The checkpoint cannot be continued in this way; with what to write.
        """
        self._written = written_options(trainer.optimizers, trainer.lr_scheduler_configs)
        self._groups = [[copied(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        if self._checkpoint is not None:
            self._settle(trainer, self._checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the checkpoint for the optimizers that are made next; sharded strategies read it after they are made.

        Raises:
            UserError: As `on_fit_start`.
        """
        if self._written is not None:
            self._settle(trainer, checkpoint)
        else:
            self._checkpoint = checkpoint

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the checkpoint's memory."""
        self._checkpoint = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store what is written, beside the states that go with it."""
        if self._written is not None:
            checkpoint[KEY] = self._written

    def _settle(self, trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
        assert self._written is not None
        self._checkpoint = None
        if any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            return  # it makes the groups of parameters as training goes on, and restores them itself
        loaded = not trainer.strategy.lightning_restore_optimizer
        changes = settle(
            trainer.optimizers, self._groups, trainer.lr_scheduler_configs, self._written, checkpoint, loaded
        )
        if changes and trainer.is_global_zero:
            print(f"Settings changed since the checkpoint: {told(changes, self._written)}.", flush=True)
