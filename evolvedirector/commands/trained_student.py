"""A trained student out of its run: built from the config, loaded from a checkpoint, handed to a function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from evolvedirector.callbacks import EMA
from evolvedirector.callbacks._run.drawing import AveragesWeights
from evolvedirector.callbacks.checkpoint import COMMIT_NAME, STATE_NAME, latest_committed
from evolvedirector.commands.chosen_checkpoint import averages_in, check_reader, read_head
from evolvedirector.commands.lightning_cli import EvolveDirectorCLI
from evolvedirector.errors import UserError
from evolvedirector.planning.preflight import verifiable_parts

CONFIG = "config.yaml"
"""What a run writes of itself."""


class StudentOfRun(EvolveDirectorCLI):
    """Build the parts of a run for its student alone: of its callbacks only those that average weights take part."""

    def __init__(self, args: list[str], callbacks: Sequence[Callback] = ()) -> None:
        """Parse and build.

        Args:
            args: The command line as `fit` takes it.
            callbacks: Further ones, for this process only.
        """
        self.configured: list[Callback] = []
        """Callbacks of the run, whether they take part or not."""
        self._further = callbacks
        super().__init__(args)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        named = config.get("callbacks") or []
        self.configured = [*callbacks, *(named if isinstance(named, list) else [named])]
        self.save_config_callback = None  # the config.yaml of the run stays as its training wrote it
        kept = [callback for callback in self.configured if self.takes_part(callback)]
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        looking = {"limit_predict_batches": 1, "fast_dev_run": False, "inference_mode": False, "barebones": False}
        return super()._instantiate_trainer({**config, **quiet, **looking, "callbacks": [*self._further, *kept]}, [])

    def takes_part(self, callback: Callback) -> bool:
        """Say which callbacks of the run take part.

        Args:
            callback: Of the run.
        """
        return isinstance(callback, AveragesWeights)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing yet."""


class NoBatch:
    """A loader that is there and hands out nothing: what is done with a student happens before the first batch."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class WithWeights(Callback):
    """Call a function as soon as the weights are loaded and on their device.

    Args:
        work: Is called on every rank.
    """

    def __init__(self, work: Callable[[Trainer, LightningModule], Any]) -> None:
        super().__init__()
        self._work = work

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Work."""
        self._work(trainer, pl_module)


def with_weights(run: StudentOfRun, checkpoint: str | None, work: Callable[[Trainer, LightningModule], Any]) -> None:
    """Load a checkpoint into the student of a run and work with it, in the run's own strategy and precision.

    Args:
        run: Built.
        checkpoint: As `choose_checkpoint` returns it. None: the weights that the student is built with.
        work: Is called on every rank, when the weights are on their device.
    """
    module, trainer = run.model, run.trainer
    module.predict_step = lambda *_: None  # it need not have one
    trainer.callbacks.append(WithWeights(work))  # type: ignore[attr-defined]
    weights_only = run.config[run.subcommand].get("weights_only")
    with warnings.catch_warnings():
        # the run's other callbacks have no part in it
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used to create")
        trainer.predict(
            module,
            NoBatch(),  # type: ignore[arg-type]
            ckpt_path=checkpoint,
            return_predictions=False,
            weights_only=True if weights_only is None else weights_only,
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """A student of a finished or stopped run.

    Args:
        run: Its parts, built.
        folder: The run folder.
        checkpoint: Whose weights; a file, or the folder of a sharded one.
        step: Optimizer step at which it was saved.
        averaged: Whether averaged weights are taken.
    """

    run: StudentOfRun
    folder: Path
    checkpoint: str
    step: int
    averaged: bool

    @property
    def weights(self) -> str:
        """Name the weights in words."""
        return f"{'averaged (EMA)' if self.averaged else 'trained'} weights of step {self.step:,}"

    def work(self, do: Callable[[Trainer, LightningModule], Any]) -> None:
        """Load the weights and work with the student.

        Args:
            do: Is called on every rank.
        """
        with_weights(self.run, self.checkpoint, do)


def run_folder_of(source: Path) -> Path:
    """Return the folder of the run that a path lies in: its own, or that of a checkpoint.

    Args:
        source: A run folder, or a checkpoint in one.

    Raises:
        UserError: No run lies there.
    """
    for folder in (source, *source.absolute().parents):
        if (folder / CONFIG).is_file():
            return folder
    raise UserError(
        f"No run lies at {source}: neither it nor a folder above it holds a {CONFIG}. Allowed is a run folder, or a "
        f"checkpoint in one. Write `runs/mine`, say."
    )


def trained_student(source: Path, averaged: bool, words: Sequence[str]) -> Trained:
    """Build the student of a run and find its weights; nothing is loaded yet.

    Args:
        source: A run folder, whose newest finished checkpoint is taken, or a checkpoint in one.
        averaged: Take averaged weights where the checkpoint holds them.
        words: Overrides, as `fit` takes them: `--trainer.accelerator=cpu`.

    Raises:
        UserError: No run or checkpoint lies there, or it is damaged; or the words name another checkpoint.
    """
    if any(word.partition("=")[0] == "--ckpt_path" for word in words):
        raise UserError(
            "--ckpt_path is no option here: the source says whose weights. Allowed is a run folder, whose newest "
            "checkpoint is taken. Write the path of a checkpoint in its place."
        )
    if not source.exists():
        raise UserError(f"Nothing lies at {source}. Allowed is a run folder, or a checkpoint in one. Check the path.")
    folder = run_folder_of(source)
    checkpoint = _checkpoint_of(source, folder)
    head = read_head(checkpoint, weights_only=True)
    run = StudentOfRun(["fit", "-c", str(folder / CONFIG), f"--trainer.default_root_dir={folder}", *words])
    check_reader(checkpoint, run.trainer.strategy)
    for _, part in verifiable_parts([run.model]):
        part.verify()  # a base or an encoder that is not here, in one sentence
    callbacks: list[Callback] = run.trainer.callbacks  # type: ignore[attr-defined]
    keeps = averages_in(head)
    if not (averaged and keeps):
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, AveragesWeights)]
    elif not any(isinstance(callback, AveragesWeights) for callback in callbacks):
        callbacks.insert(0, EMA())
    return Trained(run, folder, checkpoint, int(head.get("global_step", 0)), averaged and keeps)


def _checkpoint_of(source: Path, folder: Path) -> str:
    if source.absolute() == folder.absolute():
        newest = latest_committed(folder)
        if newest is None:
            raise UserError(
                f"The run in {folder} has no finished checkpoint. Allowed is a run that has saved one. Run "
                "`evolvedirector fit` first, or name a checkpoint of the run."
            )
        return str(newest)
    return str(source / STATE_NAME if (source / COMMIT_NAME).is_file() else source)
