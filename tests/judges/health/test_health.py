"""What floors do: they let a bad but usable judge pass and stop one that only looks like a judge."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from evolvedirector.judges import HealthReport, JudgeHealth
from evolvedirector.judges.health.report import chance_below, lower_tail
from evolvedirector.records import JudgeAccuracy, Tally
from evolvedirector.worlds.shapes.gold import MiniatureGold

SETTINGS = JudgeHealth()


def noisy(rng: random.Random, count: int, error: float) -> Tally:
    return Tally(count, sum(rng.random() < error for _ in range(count)))


def report_of(rng: random.Random, yes_error: float, no_error: float, gold: int = 40, canaries: int = 8) -> HealthReport:
    orders = [tuple(rng.random() < (yes_error + no_error) / 2 for _ in range(2)) for _ in range(canaries)]
    return HealthReport(
        gold_shows=noisy(rng, gold // 2, yes_error),
        gold_lacks=noisy(rng, gold - gold // 2, no_error),
        blank=noisy(rng, canaries, no_error),
        swapped=noisy(rng, canaries, no_error),
        own=noisy(rng, canaries, yes_error),
        pairs=Tally(2 * canaries, sum(map(sum, orders))),
        swaps=Tally(canaries, sum(a != b for a, b in orders)),
        looks=gold + 6 * canaries,
    )


def skipped_share(yes_error: float, no_error: float, rounds: int = 400, **sizes: int) -> float:
    rng = random.Random(0)
    return sum(bool(report_of(rng, yes_error, no_error, **sizes).problem(SETTINGS)) for _ in range(rounds)) / rounds


@pytest.mark.parametrize("sizes", [{}, {"canaries": 0}, {"gold": 0}])
def test_a_judge_wrong_in_three_of_ten_keeps_its_rounds(sizes: dict[str, int]) -> None:
    assert skipped_share(0.3, 0.3, rounds=2000, **sizes) < 0.02
    assert skipped_share(0.1, 0.1, **sizes) == 0


@pytest.mark.parametrize("sizes", [{}, {"canaries": 0}, {"gold": 0}])
@pytest.mark.parametrize("errors", [(0.0, 1.0), (1.0, 0.0)])
def test_always_yes_and_always_no_are_stopped(errors: tuple[float, float], sizes: dict[str, int]) -> None:
    assert skipped_share(*errors, rounds=50, **sizes) == 1


def test_a_coin_loses_most_rounds() -> None:
    assert skipped_share(0.5, 0.5) > 0.8


def test_a_judge_that_prefers_a_place_is_stopped() -> None:
    report = HealthReport(gold_shows=Tally(20, 0), gold_lacks=Tally(20, 0), swaps=Tally(8, 8), position_bias=0.5)
    problem = report.problem(SETTINGS)
    assert problem is not None
    assert "0 of 8 pairs" in problem
    assert "+0.50" in problem
    assert "min_swap_consistency=0.5" in problem


def test_unreadable_replies_stop_only_where_most_are() -> None:
    assert HealthReport(looks=88, unreadable=44).problem(SETTINGS) is None
    problem = HealthReport(looks=88, unreadable=80).problem(SETTINGS)
    assert problem is not None
    assert "8 of 88 readable replies" in problem
    assert "max_unreadable=0.6" in problem


def test_floors_that_are_off_stop_nothing() -> None:
    worst = HealthReport(
        Tally(20, 20), Tally(20, 20), Tally(8, 8), Tally(8, 8), Tally(8, 8), Tally(16, 16), Tally(8, 8)
    )
    assert worst.problem(SETTINGS)
    off = JudgeHealth(min_agreement=0, min_canary_pass=0, min_swap_consistency=0, max_unreadable=1)
    assert worst.problem(off) is None


def test_nothing_measured_is_no_problem_and_no_figure() -> None:
    assert HealthReport().problem(SETTINGS) is None
    assert HealthReport().to_figures() == {}
    assert HealthReport().accuracy == JudgeAccuracy()


def test_figures_name_what_was_measured() -> None:
    figures = HealthReport(
        Tally(20, 2), Tally(20, 6), Tally(8, 0), Tally(8, 2), Tally(8, 4), swaps=Tally(4, 1), looks=100, unreadable=5
    ).to_figures()
    assert figures["agreement"] == pytest.approx(0.8)
    assert figures["canary blank"] == 1
    assert figures["canary own"] == 0.5
    assert figures["swap consistency"] == 0.75
    assert figures["unreadable"] == 0.05
    assert (figures["sensitivity"], figures["sensitivity looks"]) == (pytest.approx(0.7), 20)
    assert (figures["specificity"], figures["specificity looks"]) == (pytest.approx(0.9), 20)
    assert (figures["canaries right"], figures["canaries"]) == (18, 24)
    assert "pairs" not in figures


@pytest.mark.parametrize("passed", [Tally(400, 0), Tally(400, 200)])
@pytest.mark.parametrize("gold", [{}, {"gold_lacks": Tally(20, 0)}, {"gold_shows": Tally(20, 0)}])
def test_canaries_and_half_a_gold_set_claim_no_accuracy(passed: Tally, gold: dict[str, Tally]) -> None:
    report = HealthReport(blank=passed, swapped=passed, own=passed, **gold)
    assert not report.accuracy.is_known
    assert not {"sensitivity", "specificity", "error"} & report.to_figures().keys()


def test_gold_alone_makes_the_accuracy_each_class_for_itself() -> None:
    report = HealthReport(Tally(20, 1), Tally(10, 4), blank=Tally(8, 0), swapped=Tally(8, 8), own=Tally(8, 8))
    assert report.accuracy == JudgeAccuracy(sensitivity=0.6, specificity=0.95, lacks=10, shows=20)


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 1))
def test_chances_are_probabilities_and_fall_with_failures(looked: int, failed: int, floor: float) -> None:
    failed = min(failed, looked)
    chance = chance_below(Tally(looked, failed), floor)
    assert 0 <= chance <= 1
    if failed:
        assert chance <= chance_below(Tally(looked, failed - 1), floor) + 1e-12


def test_lower_tail_by_hand() -> None:
    assert lower_tail(1, 2, 0.5) == pytest.approx(0.75)
    assert lower_tail(0, 3, 0.9) == pytest.approx(0.001)
    assert lower_tail(3, 3, 0.2) == pytest.approx(1)
    assert lower_tail(1000, 2000, 0.5) == pytest.approx(0.509, abs=0.001)
    assert lower_tail(1100, 2000, 0.7) < 1e-9


@pytest.mark.parametrize(
    "bad",
    [
        {"min_agreement": 1.1},
        {"min_canary_pass": -0.1},
        {"min_swap_consistency": float("nan")},
        {"max_unreadable": 2},
        {"canaries_per_round": -1},
        {"every_n_rounds": 0},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is .* Allowed is .* Write"):
        JudgeHealth(**bad)


def test_settings_come_from_yaml_and_go_back() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--health", type=JudgeHealth | None, default=None)
    given = {"gold": {"class_path": "evolvedirector.worlds.shapes.gold.MiniatureGold", "init_args": {"count": 4}}}
    config = parser.parse_object({"health": {**given, "min_agreement": 0.7}})
    health = parser.instantiate_classes(config).health
    assert isinstance(health.gold, MiniatureGold)
    assert len(health.gold.items()) == 4
    assert health.min_agreement == 0.7
    assert "count: 4" in parser.dump(config)
