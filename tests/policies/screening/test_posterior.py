"""What looks say of a candidate, and what a further look is worth."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.policies.screening.posterior import (
    Seen,
    believed,
    candidates_per_call,
    posterior,
    prospect,
    reservation,
)
from evolvedirector.records import JudgeAccuracy, Tally

EXACT = JudgeAccuracy(1.0, 1.0)
shares = st.floats(0.001, 0.999)
rates = st.floats(0.55, 0.99)
judges = st.builds(JudgeAccuracy, rates, rates)


@given(shares, st.integers(0, 6), st.integers(0, 6), judges)
def test_a_posterior_grows_with_looks_that_say_failed_and_with_the_prior(
    prior: float, lacks: int, shows: int, judge: JudgeAccuracy
) -> None:
    fails = posterior(prior, lacks, shows, judge)
    assert 0.0 <= posterior(prior, lacks, shows + 1, judge) < fails < posterior(prior, lacks + 1, shows, judge) <= 1.0
    assert posterior(min(0.9995, prior * 1.1), lacks, shows, judge) > fails


def test_a_posterior_is_bayes_rule() -> None:
    judge = JudgeAccuracy(0.8, 0.8)
    assert posterior(0.05, 1, 0, judge) == pytest.approx(0.05 * 0.8 / (0.05 * 0.8 + 0.95 * 0.2))
    assert posterior(0.05, 2, 1, judge) == pytest.approx(posterior(0.05, 1, 0, judge))
    assert (posterior(0.05, 1, 0, EXACT), posterior(0.05, 0, 1, EXACT)) == (1.0, 0.0)
    assert posterior(0.5, 1, 1, EXACT) == 0.5  # it is drawn right now and then


@settings(max_examples=60)
@given(shares, judges, st.integers(0, 5), shares, st.floats(0.0, 0.3))
def test_looking_ahead_gains_never_less_than_stopping_and_never_more_than_knowing(
    prior: float, judge: JudgeAccuracy, most: int, keep: float, price: float
) -> None:
    worth = prospect(prior, judge, most, keep, price).worth
    assert max(prior, keep) <= worth <= prior + (1 - prior) * keep + 1e-9
    assert worth >= prospect(prior, judge, most, keep, price + 0.1).worth - 1e-9  # dearer looks
    assert worth <= prospect(prior, judge, most + 1, keep, price).worth + 1e-9  # more of them allowed


@given(shares, shares, st.integers(1, 6))
def test_what_an_exact_judge_said_is_not_asked_again(prior: float, keep: float, most: int) -> None:
    for lacks in (0, 1):
        fails = posterior(prior, lacks, 1 - lacks, EXACT)
        assert prospect(fails, EXACT, most, keep, 1e-6).worth == max(fails, keep)


def test_a_look_that_changes_no_purchase_is_worth_nothing() -> None:
    judge = JudgeAccuracy(0.8, 0.8)
    assert prospect(0.9, judge, 1, 0.1, 0.001).worth == 0.9  # it stays above what the call is worth, whatever it says
    assert prospect(0.3, judge, 1, 0.4, 0.001).worth > 0.4
    assert prospect(0.3, judge, 1, 0.4, 0.5).worth == 0.4  # as dear as that


@pytest.mark.parametrize("share", [0.02, 0.05, 0.2, 0.5])
def test_an_exact_judge_needs_one_candidate_in_the_failing_share(share: float) -> None:
    price = share / 80
    assert reservation({share: 1.0}, EXACT, 6, price) == pytest.approx(1 - 1 / 80, abs=1e-3)
    assert candidates_per_call({share: 1.0}, EXACT, 6, price) == pytest.approx(1 / share)


def test_a_judge_that_errs_needs_more_and_dear_looks_none_at_all() -> None:
    erring = JudgeAccuracy(0.8, 0.8)
    assert 20 < candidates_per_call({0.05: 1.0}, erring, 6, 0.05 / 80) < 60
    assert candidates_per_call({0.5: 1.0}, erring, 6, 0.5) == 0.0  # a look costs as much as an image
    mixed = candidates_per_call({0.3: 1.0, 0.001: 5.0}, EXACT, 6, 0.05 / 80)
    assert mixed == pytest.approx(6 / 0.305, rel=0.01)


def test_shares_are_corrected_and_drawn_towards_the_larger_group() -> None:
    judge = JudgeAccuracy(0.9, 0.7)
    seen = Seen.of(Tally(100, 42), judge)
    assert (seen.looks, seen.failed / seen.looks) == (pytest.approx(36.0), pytest.approx(0.2))
    assert seen.share(0.9, 2.0) == pytest.approx((36 * 0.2 + 2 * 0.9) / 38)
    assert Seen().share(0.3, 2.0) == 0.3
    assert (seen - seen).looks == 0.0
    assert Seen.of(Tally(10, 1), judge).share() > 0  # fewer failed than the judge's error explains


def test_gold_of_few_images_is_drawn_in_and_an_unknown_judge_is_assumed_to_err() -> None:
    assert believed(JudgeAccuracy(1.0, 1.0, 20, 20), 0.9) == EXACT
    assert believed(JudgeAccuracy(0.8, 0.6, 18, 8), 0.9).rates == pytest.approx(((0.8 * 18 + 1) / 20, 5.8 / 10))
    assert believed(JudgeAccuracy.of_error(0.1), 0.8).rates == (0.9, 0.9)  # not counted: taken as it is
    assert 0.8 < believed(JudgeAccuracy(), 0.9).specificity < 0.9  # type: ignore[operator]
    assert believed(JudgeAccuracy(), 1.0) == EXACT


def test_looks_mend_what_little_gold_measured_wrongly() -> None:
    unlucky = JudgeAccuracy(0.75, 0.65, 20, 20)  # 0.8 both, in truth; 5 % fail
    looks = {(1, 0): 230, (0, 1): 770, (3, 0): 20, (1, 2): 30}
    assert abs(believed(unlucky, 0.9, looks).specificity - 0.8) < 0.05  # type: ignore[operator]
    assert believed(unlucky, 0.9).specificity < 0.7  # type: ignore[operator]
    assert believed(EXACT, 0.9, looks) == EXACT
