"""Two numbers of a judge, and what its looks say of the truth then."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.policies.screening.rates import folded_rates
from evolvedirector.records import JudgeAccuracy, RoundFigures, RoundInfo, Tally
from evolvedirector.records.judge_accuracy import clipped

JUDGE = JudgeAccuracy(sensitivity=0.9, specificity=0.85)
ROUNDS = 6


@given(st.floats(0, 1), st.floats(0.55, 1), st.floats(0.55, 1))
def test_the_correction_undoes_what_the_judge_does_wrong(share: float, sensitivity: float, specificity: float) -> None:
    judge, looks = JudgeAccuracy(sensitivity, specificity), 10**6
    seen = Tally(looks, round(judge.apparent(share) * looks))
    assert judge.corrected(seen) == pytest.approx(share, abs=2e-5)
    shown = Tally(looks, looks - seen.failed)
    assert judge.swapped().corrected(shown) == pytest.approx(1 - share, abs=2e-5)


def test_the_two_kinds_of_mistakes_pull_to_different_sides() -> None:
    """Rogan and Gladen by hand: (0.3 + Sp - 1) / (Se + Sp - 1)."""
    looks = Tally(10, 3)
    assert JudgeAccuracy(1.0, 0.8).corrected(looks) == pytest.approx(0.125)  # 0.1 / 0.8
    assert JudgeAccuracy(0.8, 1.0).corrected(looks) == pytest.approx(0.375)  # 0.3 / 0.8
    assert JudgeAccuracy(0.9, 0.9).corrected(looks) == pytest.approx(0.25)  # 0.2 / 0.8, one number is enough here
    assert JudgeAccuracy(1.0, 1.0).corrected(looks) == 0.3, "an exact judge changes not even the last digit"


@pytest.mark.parametrize(
    "judge",
    [JudgeAccuracy(0.5, 0.5), JudgeAccuracy(0.3, 0.4), JudgeAccuracy(1.0, 0.0), JudgeAccuracy(math.nan, 0.9)],
)
def test_a_coin_and_its_contrary_correct_nothing(judge: JudgeAccuracy) -> None:
    assert judge.correction == "impossible"
    assert judge.corrected(Tally(10, 5)) is None and judge.interval(Tally(10, 5)) is None


def test_what_is_not_known_corrects_nothing_and_claims_nothing() -> None:
    assert JudgeAccuracy().correction == "unknown" and JUDGE.correction == "made"
    assert JudgeAccuracy().corrected(Tally(10, 3)) == 0.3
    assert JUDGE.corrected(Tally()) is None
    assert (
        JudgeAccuracy.counted(Tally(20, 0), Tally()) == JudgeAccuracy.counted(Tally(), Tally(20, 0)) == JudgeAccuracy()
    )


def mean_error(share: float, looks: int, rate: Callable[[list[Tally]], float], draws: int = 2000) -> float:
    """Return the mean of an estimate over many runs of six rounds, less what it would be with endless looks."""
    rng, seen = random.Random(f"{share} {looks}"), JUDGE.apparent(share)
    total = 0.0
    for _ in range(draws):
        rounds = [Tally(looks, sum(rng.random() < seen for _ in range(looks))) for _ in range(ROUNDS)]
        total += rate(rounds)
    return total / draws - (share + (1 - share) * 0.5**ROUNDS)


def folded(rounds: list[Tally]) -> float:
    return folded_rates([({"skill": tally}, JUDGE) for tally in rounds], ["skill"])["skill"]


def clipped_each_round(rounds: list[Tally]) -> float:
    rate = 1.0
    for tally in rounds:
        rate += 0.5 * (clipped(JUDGE.corrected(tally) or 0.0) - rate)
    return rate


@pytest.mark.parametrize("looks", [5, 10, 20])
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_few_looks_do_not_push_a_rate_up(share: float, looks: int) -> None:
    """Not clipped: unbiased; clipped where it is used: under .05; clipped in every round: up to .09."""
    unclipped, naive = mean_error(share, looks, folded), mean_error(share, looks, clipped_each_round)
    used = mean_error(share, looks, lambda rounds: clipped(folded(rounds)))
    assert abs(unclipped) < 0.012  # the standard error of 2000 runs is .003 with 5 looks
    assert abs(unclipped) < naive and used < 0.75 * naive
    assert used < 0.05


@pytest.mark.parametrize(("share", "looks"), [(0.05, 10), (0.3, 40), (0.8, 20)])
def test_the_interval_holds_the_truth_and_knows_how_little_gold_says(share: float, looks: int) -> None:
    def count(asked: int, chance: float) -> int:
        return sum(rng.random() < chance for _ in range(asked))

    rng, held, gold = random.Random(1), 0, 20
    for _ in range(600):
        judge = JudgeAccuracy.counted(Tally(gold, count(gold, 0.1)), Tally(gold, count(gold, 0.15)))
        low, high = judge.interval(Tally(looks, count(looks, JUDGE.apparent(share)))) or (0.0, 1.0)
        assert 0.0 <= low <= high <= 1.0
        held += low <= share <= high
    assert held / 600 > 0.93
    few, many = (JudgeAccuracy(0.9, 0.85, n, n).interval(Tally(40, 12)) or (0.0, 0.0) for n in (10, 1000))
    assert few[1] - few[0] > 1.2 * (many[1] - many[0])


def test_figures_of_a_ledger_tell_both_numbers_and_those_of_before_one() -> None:
    assert RoundFigures().judge_accuracy == RoundFigures(judge={"canary blank": 1.0}).judge_accuracy == JudgeAccuracy()
    assert RoundFigures(judge={"error": 0.2}).judge_accuracy == JudgeAccuracy(0.8, 0.8)
    new = {"sensitivity": 0.9, "specificity": 0.8, "sensitivity looks": 20.0, "specificity looks": 10.0}
    assert RoundFigures(judge=new).judge_accuracy == JudgeAccuracy(0.9, 0.8, 20, 10)


def test_a_round_of_an_older_checkpoint_is_read() -> None:
    saved = {"round_id": "r", "index": 3, "rounds": None, "seed": 0, "global_step": 4, "revision_sha": "s"}
    assert RoundInfo.restored(saved | {"judge_error": 0.0}) == RoundInfo(**saved)  # type: ignore[arg-type]
