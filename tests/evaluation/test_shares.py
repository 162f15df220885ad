import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.evaluation import Share, mean_of_shares, share_of_prompts
from evolvedirector.evaluation.intervals import wilson_interval

TRIES = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=5), min_size=1, max_size=20)


def test_one_try_per_prompt_gives_wilsons_interval() -> None:
    share = share_of_prompts([[1.0]] * 3 + [[0.0]] * 5)
    assert share is not None
    assert (share.low, share.high) == pytest.approx(wilson_interval(3, 8))
    assert (share.value, share.prompts) == (3 / 8, 8)


def test_tries_that_repeat_each_other_add_nothing() -> None:
    once, often = share_of_prompts([[1.0], [0.0]] * 4), share_of_prompts([[1.0] * 4, [0.0] * 4] * 4)
    assert once is not None and often is not None
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_tries_that_are_independent_narrow_the_interval() -> None:
    mixed = share_of_prompts([[1.0, 0.0, 1.0, 0.0]] * 4 + [[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    assert mixed is not None
    low, high = wilson_interval(3, 6) or (0, 1)
    assert low < mixed.low < 0.5 < mixed.high < high
    every_try = wilson_interval(12, 24) or (0, 1)
    assert mixed.high - mixed.low >= every_try[1] - every_try[0] - 1e-12


def test_successes_alone_do_not_make_prompts_out_of_tries() -> None:
    share = share_of_prompts([[1.0] * 9, [1.0] * 9])
    assert share is not None and (share.low, share.high) == pytest.approx(wilson_interval(2, 2))


@given(TRIES)
def test_the_interval_holds_the_share_and_stays_between_0_and_1(tries: list[list[float]]) -> None:
    share = share_of_prompts(tries)
    assert share is not None
    assert 0 <= share.low <= share.value + 1e-9 and share.value - 1e-9 <= share.high <= 1
    assert share.high - share.low > 0.01, "a few prompts never settle a share"


def test_each_prompt_counts_once_however_often_it_was_tried() -> None:
    share = share_of_prompts([[1.0], [0.0] * 9, []])
    assert share is not None and (share.value, share.prompts) == (0.5, 2)


def test_nothing_tried_is_no_share() -> None:
    assert share_of_prompts([]) is None and share_of_prompts([[]]) is None and mean_of_shares({}) is None


def test_the_mean_is_over_skills_and_surer_than_its_parts() -> None:
    large, small = Share(0.9, 0.8, 1.0, 100), Share(0.5, 0.3, 0.7, 4)
    mean = mean_of_shares({"large": large, "small": small})
    assert mean is not None and mean.value == pytest.approx(0.7) and mean.prompts == 104
    # Zou and Donner: 0.7 - sqrt(0.1^2 + 0.2^2) / 2
    assert mean.low == pytest.approx(0.5882, abs=1e-4) and mean.high == pytest.approx(0.8118, abs=1e-4)
