"""The first and the last line of a run: what it is, and where to look."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.nn.parameter import is_lazy

from evolvedirector.callbacks._run.forgiving_logger import ForgivingLogger
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.callbacks.run_progress import duration, total_steps
from evolvedirector.errors import UserError
from evolvedirector.store.paths import user_path


class RunNotes(Callback):
    """Say at the start what is trained and where it goes, at the end how long it took and what to look at."""

    def __init__(self) -> None:
        super().__init__()
        self._began_s: float | None = None  # on the monotonic clock; None while nothing is trained

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is trained, on what, and how to stop it."""
        self._began_s = time.monotonic()
        if trainer.is_global_zero:
            print(opening_line(trainer, pl_module), flush=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that it is over, and what to look at."""
        if trainer.is_global_zero:
            taken_s = None if self._began_s is None else time.monotonic() - self._began_s
            print(closing_line(trainer, taken_s), flush=True)


def opening_line(trainer: Trainer, module: LightningModule) -> str:
    """Return what is trained, on what, how long, and where it goes.

    Args:
        trainer: One whose loaders are built.
        module: The student.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # a lazy layer has no size before its first batch
    count = sum(parameter.numel() for parameter in trained if not is_lazy(parameter))
    total = total_steps(trainer)
    length = "without an end" if total is None else f"{total:,} steps"
    if trainer.global_step and total is not None:
        length = f"steps {trainer.global_step:,} to {total:,}"
    devices = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    return (
        f"Training {type(module).__name__} ({count:,} parameters), {length} on {devices}, into "
        f"{_shown(trainer.default_root_dir)}. Ctrl-C stops it; nothing is lost."
    )


def closing_line(trainer: Trainer, seconds: float | None) -> str:
    """Return how a run ended and the command that shows its curves.

    Args:
        trainer: After `fit`.
        seconds: What training took. None: the run was over before it began.
    """
    said = f"Finished at step {trainer.global_step:,} after {duration(seconds or 0)}."
    if seconds is None:
        said = (
            f"Nothing was left to train: this run ended at step {trainer.global_step:,}. To train longer, raise "
            "trainer.max_steps or trainer.max_epochs."
        )
    for logger in trainer.loggers:
        if isinstance(logger, ForgivingLogger) and logger.kind == "TensorBoardLogger" and logger.root_dir:
            said += f" Curves: tensorboard --logdir {shlex.quote(_shown(user_path(logger.root_dir)))}"
    return said


def refuse_second_run(run_folder: Path) -> None:
    """Refuse to start from scratch in a folder that holds a run: its checkpoints would be pruned one by one.

    Args:
        run_folder: `trainer.default_root_dir`.

    Raises:
        UserError: With what to write to go on, and to start anew.
    """
    newest = latest_committed(run_folder)
    if newest is None:
        return
    shown = _shown(run_folder)
    other = f"{shown}-2"
    raise UserError(
        f"{shown} holds a run already (its newest checkpoint is {newest.parent.name}), and one run folder serves one "
        "run. To go on with it, add --ckpt_path last. To start anew, name another folder for the run and its dataset, "
        f"as --trainer.default_root_dir {shlex.quote(other)} --data.init_args.root {shlex.quote(f'{other}/data')}, or "
        f"delete {shown}."
    )


def _shown(path: str | Path) -> str:
    """Write a path below the current folder as a user would."""
    try:
        return os.fspath(Path(path).absolute().relative_to(Path.cwd()))
    except ValueError:
        return os.fspath(path)
