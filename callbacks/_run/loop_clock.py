"""Time one round where it happens: at the ends of epochs, between what the other callbacks do there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import lightning.pytorch as pl

from evolvedirector.callbacks._run.phase_memory import PhaseMemory
from evolvedirector.records import ImageRequest


class Timed(Protocol):
    """The callback whose round is timed, `EvolutionCallback`: it is told by its state how far the round is."""

    every_n_epochs: int

    def state_dict(self) -> dict[str, Any]:
        """Return `rounds_done`, and `pending`: the round that is under way, or None."""
        ...


@dataclass(slots=True)
class RoundTimes:
    """What the ends of epochs took while one round was held, and what lay between.

    Args:
        boundary_s: Of each end of an epoch from the one that opened the round to the one that took its revision.
        drawing_s: In these, the student drew.
        epoch_s: Of each epoch that was trained, its loader and caches included.
        epochs_beside: Of them, how many were trained while the round was under way.
        before_training: Whether it was held before the first step.
        asked_before: Calls that the meter had noted as the round opened: they bought the seeds.
    """

    boundary_s: list[float] = field(default_factory=list)
    drawing_s: float = 0.0
    epoch_s: list[float] = field(default_factory=list)
    epochs_beside: int = 0
    before_training: bool = False
    asked_before: int = 0


class LoopClock:
    """Train until one round is held and read, and time it; `before` and `behind` stand around all other callbacks.

    Args:
        evolution: Whose round is timed.
        memory: Told when the student trains and draws.
        calls: Returns how many calls the meter has noted so far.
        clock: Seconds.
    """

    def __init__(
        self,
        evolution: Timed,
        memory: PhaseMemory,
        calls: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.times = RoundTimes()
        self.is_over = False
        self.before, self.behind = _Before(self), _Behind(self)
        self._evolution = evolution
        self._memory = memory
        self._calls = calls
        self._clock = clock
        self._drawing_s = 0.0
        self._marked = self._drawn_before = 0.0
        self._is_open = False
        self._epochs = 0  # since the round was opened, or since the beginning

    def time_drawing(self, module: Any) -> None:
        """Count the seconds in which a module draws.

        Args:
            module: The student.
        """
        draw = module.generate

        def timed(requests: Sequence[ImageRequest]) -> Any:
            began = self._clock()
            with self._memory.working("drawing"):
                images = draw(requests)
            self._drawing_s += self._clock() - began
            return images

        module.generate = timed

    def training_begins(self) -> None:
        """Note that what comes now is an epoch."""
        self._memory.begin("training")
        self._marked = self._clock()

    def boundary_begins(self, trainer: pl.Trainer, trained: bool) -> None:
        """Note that an epoch is over, or that training is about to begin.

        Args:
            trainer: The running trainer.
            trained: Whether an epoch lies behind.
        """
        now = self._clock()
        if trained:
            self._memory.end("training")
            self.times.epoch_s.append(now - self._marked)
            self._epochs += 1
        if not self._is_open:
            self.times.asked_before = self._calls()
        else:
            trainer.should_stop = True  # so that no further round opens where this one may be read
        self._marked, self._drawn_before = now, self._drawing_s

    def boundary_ends(self, trainer: pl.Trainer, trained: bool) -> None:
        """Note what the callbacks took, and end the training where the round is read.

        Args:
            trainer: The running trainer.
            trained: Whether an epoch lies behind.
        """
        state, times = self._evolution.state_dict(), self.times
        is_read = state["rounds_done"] > 0
        if self._is_open or is_read or state["pending"] is not None:
            times.boundary_s.append(self._clock() - self._marked)
            times.drawing_s += self._drawing_s - self._drawn_before
            if not self._is_open:
                self._is_open, times.before_training = True, not trained
                self._epochs = 0
        never_due = not self._is_open and self._epochs >= self._evolution.every_n_epochs
        self.is_over = is_read
        trainer.should_stop = is_read or never_due
        if is_read:
            times.epochs_beside = self._epochs
        else:
            self.training_begins()


class _Before(pl.Callback):
    """Stands before all other callbacks."""

    def __init__(self, clock: LoopClock) -> None:
        self._clock = clock

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the clock."""
        self._clock.time_drawing(pl_module)
        self._clock.boundary_begins(trainer, trained=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the clock."""
        if not self._clock.is_over:
            self._clock.boundary_begins(trainer, trained=True)


class _Behind(pl.Callback):
    """Stands behind all other callbacks."""

    def __init__(self, clock: LoopClock) -> None:
        self._clock = clock

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the clock."""
        self._clock.boundary_ends(trainer, trained=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the clock."""
        if not self._clock.is_over:
            self._clock.boundary_ends(trainer, trained=True)
