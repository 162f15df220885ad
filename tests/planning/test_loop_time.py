"""Idle time by hand, between epochs and in the background."""

import pytest

from evolvedirector.planning.loop_time import LoopTime


def test_training_that_waits_idles_for_all_of_a_round_but_the_drawing() -> None:
    time = LoopTime([30.0], drawing_s=10.0, epoch_s=40.0, every_n_epochs=2)
    assert (time.idle_s, time.round_s, time.idle_share_of_round) == (20.0, 30.0, 20 / 30)
    # two epochs and one round: 110 s, of which it idles 20
    assert time.epoch_with_rounds_s == 55.0 and time.idle_share_of_epoch == pytest.approx(20 / 110)


def test_beside_a_round_in_the_background_it_trains() -> None:
    time = LoopTime([4.0, 0.5, 1.5], drawing_s=3.0, epoch_s=40.0, epochs_beside=2, every_n_epochs=2)
    assert (time.idle_s, time.round_s) == (3.0, 86.0)
    assert time.idle_share_of_round == pytest.approx(3 / 86)
    assert time.idle_share_of_epoch == pytest.approx(3 / 86), "a round follows at once"


def test_a_round_before_training_belongs_to_no_epoch() -> None:
    time = LoopTime([10.0], drawing_s=1.0, epoch_s=0.0, every_n_epochs=None)
    assert time.idle_share_of_round == 0.9 and time.idle_share_of_epoch is None and time.epoch_with_rounds_s is None
