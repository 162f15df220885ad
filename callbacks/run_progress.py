"""How far a run is: one bar on a terminal, a plain line now and then in a file."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from evolvedirector.errors import UserError

REFRESH_S = 0.5
"""Reading the figures waits for the device; so seldom it costs nothing."""
_SHORT = {"train/loss": "loss", "accuracy/mean": "accuracy"}


class RunProgress(ProgressBar):
    """Show one bar over all steps of a run, rounds and validation as a second line of it while they last.

    Lightning's own bar starts anew each epoch and wraps its figures over several lines. Where the output is no
    terminal, a line is printed each tenth of the run instead. `evolvedirector fit` uses it unless the config names
    another bar or says `enable_progress_bar: false`.

    Example:
        ```yaml
        trainer:
          callbacks:
            - class_path: evolvedirector.callbacks.run_progress.RunProgress
              init_args: {plain_lines: 50}
        ```
    """

    def __init__(self, plain_lines: int = 10) -> None:
        """Set how much is said where there is no terminal.

        Args:
            plain_lines: Lines over a whole run; 0 says nothing.

        Raises:
            UserError: A negative number.
        """
        super().__init__()
        if plain_lines < 0:
            raise UserError(f"plain_lines is {plain_lines}. Allowed: 0 or more. Write `plain_lines: 10`, say.")
        self.plain_lines = plain_lines
        self.progress: Progress | None = None
        """The display; rounds show themselves in it."""
        self._enabled = True
        self._total: int | None = None
        self._run: TaskID | None = None
        self._aside: TaskID | None = None
        self._began_s, self._began_step = 0.0, 0
        self._shown_s = 0.0
        self._said = 0  # plain lines so far, counted in parts of the whole run

    def disable(self) -> None:
        """Show nothing: on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the run is."""
        self._total = total_steps(trainer)
        self._began_s, self._began_step = time.monotonic(), trainer.global_step
        self._said = self._parts(trainer.global_step)
        if self._open():
            assert self.progress is not None
            self._run = self.progress.add_task("training", total=self._total, completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, or say a line."""
        if not self._enabled:
            return
        now, step = time.monotonic(), trainer.global_step
        if self.progress is not None and self._run is not None:
            if now - self._shown_s >= REFRESH_S or trainer.is_last_batch:  # a round may hold the bar there
                self._shown_s = now
                said = ", ".join(filter(None, ("training", figures_of(trainer))))
                self.progress.update(self._run, completed=step, description=said)
        elif self._parts(step) > self._said:
            self._said = self._parts(step)
            print(self._line(trainer, now), flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away; what comes then is the summary."""
        self._stop()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the loop as a line of its own."""
        counts: dict[TrainerFn | None, Any] = {
            TrainerFn.TESTING: trainer.num_test_batches,
            TrainerFn.PREDICTING: trainer.num_predict_batches,
        }
        found = counts.get(trainer.state.fn, trainer.num_val_batches)
        total = sum(found) if isinstance(found, list) else found
        if not trainer.sanity_checking and self._open():
            assert self.progress is not None
            name = {TrainerFn.TESTING: "test", TrainerFn.PREDICTING: "predict"}.get(trainer.state.fn, "validation")  # type: ignore[arg-type]
            whole = int(total) if math.isfinite(total) else None
            self._aside = self.progress.add_task(name, total=whole)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move on."""
        if self.progress is not None and self._aside is not None:
            self.progress.advance(self._aside)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the line away."""
        if self.progress is not None and self._aside is not None:
            self.progress.remove_task(self._aside)
            self._aside = None
        if trainer.state.fn != TrainerFn.FITTING:
            self._stop()

    on_test_start = on_predict_start = on_validation_start
    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._stop()

    def _open(self) -> bool:
        """Start the display when there is a terminal; tell whether there is one."""
        if self._enabled and self.progress is None:
            console = Console(markup=False, emoji=False)
            if console.is_terminal and not console.is_dumb_terminal:
                # Rounds add tasks of their own: a column must not ask for fields that only some tasks have.
                columns = (
                    BarColumn(bar_width=24),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(compact=True),
                    TextColumn("{task.description}", markup=False),  # names of users stand in it
                )
                self.progress = Progress(*columns, console=console, transient=True, refresh_per_second=4)
                self.progress.start()
        return self.progress is not None

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        self.progress = self._run = self._aside = None

    def _parts(self, step: int) -> int:
        return 0 if not self._total else step * self.plain_lines // self._total

    def _line(self, trainer: pl.Trainer, now_s: float) -> str:
        step, total = trainer.global_step, self._total or 1
        done = step - self._began_step
        left_s = (now_s - self._began_s) / done * (total - step) if done else 0.0
        parts = [f"step {step:,} of {total:,}", figures_of(trainer), f"{duration(left_s)} left" if step < total else ""]
        return ", ".join(part for part in parts if part)


def total_steps(trainer: pl.Trainer) -> int | None:
    """Return the optimizer steps of a whole run; None when no end is set.

    Args:
        trainer: One whose loaders are built.
    """
    ends = [trainer.max_steps] if trainer.max_steps > 0 else []
    batches = trainer.num_training_batches
    if (trainer.max_epochs or -1) > 0 and math.isfinite(batches):
        per_epoch = -(-int(batches) // trainer.accumulate_grad_batches)
        ends.append((trainer.max_epochs or 0) * per_epoch)
    return min(ends, default=None)


def figures_of(trainer: pl.Trainer) -> str:
    """Return the figures that a module logs with `prog_bar=True`, in one line."""
    found = trainer.progress_bar_metrics.items()
    return ", ".join(f"{_SHORT.get(name, name)} {value:.3f}" for name, value in found if isinstance(value, float | int))


def duration(seconds: float) -> str:
    """Write a time in the two units that matter: `4 min 31 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
