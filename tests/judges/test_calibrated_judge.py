"""Known answers put a judge's probabilities right, and a handful of them moves it little."""

import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.judges.calibrated_judge import CalibratedJudge
from evolvedirector.judges.health.calibration import (
    Calibration,
    brier_score,
    calibrated,
    calibration_error,
    fit_calibration,
    log_odds,
    probability_of,
    reliability,
)
from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageAndPrompt, Look, OrderedPair

probabilities = st.floats(0.0, 1.0)


def distorted(count: int, temperature: float, shift: float, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Answers of a judge whose right probability is p and who says sigmoid(z(p) * temperature + shift)."""
    rng = random.Random(seed)
    right = [rng.uniform(0.02, 0.98) for _ in range(count)]
    said = [probability_of(log_odds(p) * temperature + shift) for p in right]
    return said, [rng.random() < p for p in right]


@pytest.mark.parametrize(("temperature", "shift"), [(1.0, 0.0), (3.0, 0.0), (0.5, 0.0), (1.0, 1.5), (2.0, -1.0)])
def test_a_distortion_is_found_and_undone(temperature: float, shift: float) -> None:
    said, truths = distorted(4000, temperature, shift)
    found = fit_calibration(said, truths)
    assert found.temperature == pytest.approx(temperature, rel=0.15)
    assert found.shift == pytest.approx(shift, abs=0.2)
    corrected = [calibrated(p, found) for p in said]
    assert brier_score(corrected, truths) <= brier_score(said, truths) + 1e-3
    assert calibration_error(corrected, truths) < 0.04


def test_few_answers_move_it_little_and_none_not_at_all() -> None:
    assert fit_calibration([], []) == Calibration()
    once = fit_calibration([0.9], [False])
    assert 0.5 < once.temperature < 2.5 and 0.0 < once.shift < 2.0


def test_answers_that_are_0_and_1_can_be_fitted() -> None:
    truths = [place % 2 == 0 for place in range(100)]
    said = [1.0 - truth if place % 20 in (0, 11) else float(truth) for place, truth in enumerate(truths)]
    found = fit_calibration(said, truths)
    assert calibrated(1.0, found) == pytest.approx(0.9, abs=0.05), "it is right in 90 of 100 cases"


def test_a_judge_that_says_the_contrary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"or its contrary.*Ask another judge"):
        fit_calibration([0.9, 0.1] * 30, [False, True] * 30)


@settings(max_examples=40)
@given(probabilities, probabilities, st.floats(0.1, 10), st.floats(-3, 3))
def test_a_correction_keeps_the_order(one: float, other: float, temperature: float, shift: float) -> None:
    calibration = Calibration(temperature, shift)
    first, second = calibrated(one, calibration), calibrated(other, calibration)
    assert 0.0 <= first <= 1.0 and (first <= second or one > other)


@settings(max_examples=40)
@given(probabilities, st.floats(0.1, 10))
def test_temperature_alone_changes_no_verdict(probability: float, temperature: float) -> None:
    corrected = calibrated(probability, Calibration(temperature))
    assert (corrected > 0.5) == (probability > 0.5) or abs(probability - 0.5) < 1e-9


@settings(max_examples=40)
@given(probabilities)
def test_no_correction_changes_nothing(probability: float) -> None:
    assert calibrated(probability, Calibration()) == probability


def test_a_preference_for_a_place_is_the_shift_of_both_orders() -> None:
    rng = random.Random(1)
    said, truths = [], []
    for _ in range(500):
        clear = rng.uniform(0.5, 2.5) * rng.choice([1, 1, 1, 1, -1])  # log-odds of the right one; wrong in a fifth
        said += [probability_of(clear + 1.2), probability_of(-clear + 1.2)]
        truths += [True, False]
    assert fit_calibration(said, truths).shift == pytest.approx(1.2, abs=0.15)


def test_reliability_compares_what_was_said_with_what_was_true() -> None:
    bins = reliability([0.15, 0.12, 0.95, 1.0], [False, True, True, True])
    assert bins == [(pytest.approx(0.135), 0.5, 2), (pytest.approx(0.975), 1.0, 2)]
    assert calibration_error([0.15, 0.12, 0.95, 1.0], [False, True, True, True]) == pytest.approx((0.365 + 0.025) / 2)
    assert brier_score([0.5, 1.0], [True, True]) == 0.125


class Fixed:
    """Says 0.8 of everything, or nothing that can be read."""

    fingerprint = "fixed"

    def __init__(self, mass: float = 1.0) -> None:
        self.mass, self.closed = mass, False

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        yield from (Look(pair.item_id, 0.8, self.mass, rung="logprobs") for pair in pairs)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        yield from (Look(item.item_id, 0.8, self.mass, rung="logprobs") for item in items)

    def verify(self) -> None:
        raise ValueError("No such model.")

    def close(self) -> None:
        self.closed = True


def test_single_images_and_pairs_are_corrected_apart() -> None:
    judge = CalibratedJudge(Fixed(), temperature=2.0, first_shift=log_odds(0.8))
    (single,) = judge.check([ImageAndPrompt("a", b"", "p")])
    (pair,) = judge.look([OrderedPair("b", b"", b"", "p")])
    assert isinstance(judge, Judge)
    assert single == Look("a", pytest.approx(2 / 3), rung="logprobs"), "odds of 4 become odds of 2"
    assert pair.probability == pytest.approx(0.5)


def test_what_cannot_be_read_stays_so() -> None:
    judge = CalibratedJudge(Fixed(mass=0.0), shift=3.0)
    assert next(judge.check([ImageAndPrompt("a", b"", "p")])) == Look("a", 0.8, 0.0, rung="logprobs")


def test_it_is_named_with_its_correction_and_passes_calls_on() -> None:
    inner = Fixed()
    judges = [CalibratedJudge(inner), CalibratedJudge(inner, 2.0), CalibratedJudge(inner, pair_temperature=2.0)]
    assert len({judge.fingerprint for judge in [*judges, inner]}) == 4
    with pytest.raises(ValueError, match="No such model"):
        judges[0].verify()
    judges[0].close()
    assert inner.closed


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"pair_temperature": -1.0}, {"shift": float("nan")}])
def test_values_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is .*Allowed.*Write"):
        CalibratedJudge(Fixed(), **wrong)


class Undecided:
    """Cannot tell two images apart, nor whether one fits."""

    fingerprint = "undecided"

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        yield from (Look(pair.item_id, 0.5) for pair in pairs)

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        yield from (Look(item.item_id, 0.5) for item in items)

    def close(self) -> None:
        pass


def test_an_even_pair_stays_a_tie_and_an_even_check_is_corrected() -> None:
    judge = CalibratedJudge(Undecided(), shift=1.0, first_shift=1.0)
    assert next(judge.look([OrderedPair("p", b"1", b"2", "x")])).probability == 0.5
    assert next(judge.check([ImageAndPrompt("i", b"1", "x")])).probability < 0.5
