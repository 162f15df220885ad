"""When a round is held, and how many a training leaves room for."""

from __future__ import annotations

from typing import Any

import pytest

from evolvedirector.evolution.schedule import RoundSchedule


def test_a_round_follows_every_nth_epoch_until_all_are_held() -> None:
    schedule = RoundSchedule(every_n_epochs=2, max_rounds=3)
    assert [epoch for epoch in range(1, 7) if schedule.is_due(epoch, 0, trains_on=True)] == [2, 4, 6]
    assert not schedule.is_due(8, rounds_done=3, trains_on=True)
    assert RoundSchedule(2, None).is_due(8, rounds_done=99, trains_on=True)


def test_none_is_held_when_nobody_would_train_on_it() -> None:
    assert not RoundSchedule(1, None).is_due(4, 0, trains_on=False)


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


def test_numbers_out_of_range_are_told() -> None:
    with pytest.raises(ValueError, match="every_n_epochs is 0. Allowed: 1 or more"):  # noqa: RUF043
        RoundSchedule(0, None)
    with pytest.raises(ValueError, match="max_rounds is -1. Allowed: 0 or more"):  # noqa: RUF043
        RoundSchedule(1, -1)
