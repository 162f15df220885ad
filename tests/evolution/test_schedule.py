"""When a round is held, and how many a training leaves room for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evolvedirector.evolution.schedule import RoundSchedule


def trainer(**changes: Any) -> Any:
    settings = {"max_epochs": 10, "max_steps": -1, "global_step": 100, "should_stop": False}
    return SimpleNamespace(**{**settings, "num_training_batches": 50, "accumulate_grad_batches": 5, **changes})


def test_a_round_follows_every_nth_epoch_until_all_are_held() -> None:
    schedule = RoundSchedule(every_n_epochs=2, max_rounds=3)
    assert [epoch for epoch in range(1, 7) if schedule.is_due(trainer(), epoch, 0)] == [2, 4, 6]
    assert not schedule.is_due(trainer(), 8, rounds_done=3)
    assert RoundSchedule(2, None).is_due(trainer(), 8, rounds_done=99)


@pytest.mark.parametrize("end", [{"max_epochs": 4}, {"max_steps": 100}, {"should_stop": True}])
def test_none_is_held_when_nobody_would_train_on_it(end: dict[str, Any]) -> None:
    assert not RoundSchedule(1, None).is_due(trainer(**end), 4, 0)


@pytest.mark.parametrize(
    ("ends", "max_rounds", "planned"),
    [
        ((10, -1, None), None, 4),
        ((10, -1, None), 3, 3),
        ((None, -1, None), None, None),
        ((-1, -1, None), 5, 5),
        ((None, 100, 10), None, 4),
        ((6, 100, 10), None, 2),
        ((None, 100, None), None, None),
        ((1, -1, None), None, 0),
    ],
)
def test_the_rounds_that_a_training_leaves_room_for(ends: Any, max_rounds: int | None, planned: int | None) -> None:
    assert RoundSchedule(2, max_rounds).planned_rounds(*ends) == planned


def test_a_running_training_counts_its_optimizer_steps() -> None:
    assert RoundSchedule(1, None).planned_by(trainer(max_epochs=-1, max_steps=40)) == 3
    assert RoundSchedule(1, None).planned_by(trainer()) == 9


def test_numbers_out_of_range_are_told() -> None:
    with pytest.raises(ValueError, match="every_n_epochs is 0. Allowed: 1 or more"):  # noqa: RUF043
        RoundSchedule(0, None)
    with pytest.raises(ValueError, match="max_rounds is -1. Allowed: 0 or more"):  # noqa: RUF043
        RoundSchedule(1, -1)
