"""Time the steps of a Trainer and of something else in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

Clock = Callable[[], float]


class Interval(NamedTuple):
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(eq=False)
class Turns(Callback):
    """Take seconds of each step of a Trainer, and after each step let another loop take one, which is timed too.

    A step of the Trainer goes from the end of the other's step to the next end of a batch: reading the next batch,
    hooks, logging and bookkeeping of the Trainer are all inside.

    Args:
        clock: Seconds.
        other: Takes one step of the other loop, by its number.
        warm_up: Steps that are not kept.
    """

    clock: Clock
    other: Callable[[int], Any]
    warm_up: int = 3
    seconds: list[tuple[float, float]] = field(default_factory=list)
    """Of the Trainer and of the other, by step."""
    before_s: float = 0.0
    """From the start of the fit to that of the first batch: what is paid once, caches among it."""
    _began: float = 0.0
    _steps: int = 0

    def on_fit_start(self, *_: Any) -> None:
        """Begin to time what comes before the first batch."""
        self._began = self.clock()

    def on_train_batch_start(self, *_: Any) -> None:
        """End what comes before the first batch."""
        if self._steps == 0 and not self.before_s:
            self.before_s = self.clock() - self._began

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop the Trainer's clock, let the other take its step, and go on."""
        ours = self.clock() - self._began
        start = self.clock()
        self.other(self._steps)
        theirs = self.clock() - start
        if self._steps >= self.warm_up:
            self.seconds.append((ours, theirs))
        self._steps += 1
        self._began = self.clock()


def take_turns(
    module: LightningModule, data: LightningDataModule, other: Callable[[int], Any], clock: Clock, warm_up: int = 3
) -> Turns:
    """Fit one epoch on the CPU, and take a step of the other loop after each of its steps.

    Args:
        module: Trained.
        data: Of as many batches as there shall be pairs, and the warm-up.
        other: Takes one step, by its number.
        clock: Seconds.
        warm_up: Steps that are not kept.
    """
    turns = Turns(clock, other, warm_up)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        reload_dataloaders_every_n_epochs=1,
        gradient_clip_val=1.0,
        callbacks=[turns],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return turns


def median_interval(ratios: Sequence[float], draws: int = 2000, seed: int = 0) -> Interval:
    """Return the median of ratios and its percentile interval by bootstrap over pairs.

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.

    Args:
        ratios: One per pair.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    random_ = random.Random(seed)
    medians = sorted(statistics.median(random_.choices(ratios, k=len(ratios))) for _ in range(draws))
    return Interval(statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1])
