"""The ends of epochs of one round, by a clock that stands still unless somebody works."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evolvedirector.callbacks._run.loop_clock import LoopClock
from evolvedirector.callbacks._run.phase_memory import PhaseMemory


class Evolution:
    """Opens a round at one end of an epoch, and reads it so many ends later."""

    every_n_epochs = 2

    def __init__(self, opens: int, reads: int) -> None:
        self.opens, self.reads, self.ends = opens, reads, -1

    def state_dict(self) -> dict[str, Any]:
        is_read = self.ends >= self.reads
        return {"rounds_done": int(is_read), "pending": {} if self.opens <= self.ends and not is_read else None}


class Student:
    """Draws in three seconds."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def generate(self, requests: Sequence[object]) -> list[object]:
        self.clock[0] += 3.0
        return list(requests)


def ran(opens: int, reads: int, train_s: float = 10.0, end_s: float = 5.0) -> tuple[LoopClock, Any]:
    """Go through the hooks as a trainer does: end 0 is before the first step, each draws and takes `end_s` beside."""
    now, evolution = [0.0], Evolution(opens, reads)
    clock = LoopClock(evolution, PhaseMemory(torch.device("cpu")), lambda: 7, lambda: now[0])
    trainer, student = SimpleNamespace(should_stop=False), Student(now)

    def end(number: int) -> None:
        (clock.before.on_train_start if number == 0 else clock.before.on_train_epoch_end)(trainer, student)  # type: ignore[arg-type]
        evolution.ends = number
        student.generate([1])
        now[0] += end_s
        (clock.behind.on_train_start if number == 0 else clock.behind.on_train_epoch_end)(trainer, student)  # type: ignore[arg-type]

    end(0)
    for number in range(1, 9):
        if trainer.should_stop:
            break
        now[0] += train_s
        end(number)
    return clock, trainer


def test_a_round_that_training_waits_for_is_one_end_of_an_epoch() -> None:
    clock, trainer = ran(opens=2, reads=2)
    times = clock.times
    assert (times.boundary_s, times.drawing_s, times.epoch_s) == ([8.0], 3.0, [10.0, 10.0])
    assert (times.epochs_beside, times.before_training, times.asked_before) == (0, False, 7)
    assert clock.is_over and trainer.should_stop


def test_a_round_in_the_background_is_all_ends_until_it_is_read() -> None:
    times = ran(opens=1, reads=3)[0].times
    assert (times.boundary_s, times.drawing_s, times.epochs_beside) == ([8.0, 8.0, 8.0], 9.0, 2)
    assert times.epoch_s == [10.0] * 3


def test_a_round_before_the_first_step_is_no_end_of_an_epoch() -> None:
    times = ran(opens=0, reads=0)[0].times
    assert times.before_training and times.boundary_s == [8.0] and times.epoch_s == []


@pytest.mark.parametrize("end_s", [5.0, 50.0])
def test_a_slower_round_is_a_longer_end(end_s: float) -> None:
    assert ran(opens=1, reads=1, end_s=end_s)[0].times.boundary_s == [end_s + 3.0]


def test_where_no_round_is_due_training_ends_when_it_would_have_been() -> None:
    clock, trainer = ran(opens=99, reads=99)
    assert clock.times.boundary_s == [] and not clock.is_over
    assert trainer.should_stop and clock.times.epoch_s == [10.0, 10.0]
