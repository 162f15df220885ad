"""What a round comes to, in words and in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from evolvedirector.callbacks._run.round_line import RoundOutcome, line_of, scalars_of
from evolvedirector.records import DatasetState, Prompt, PromptEntry, RoundFigures, Sample
from evolvedirector.store.ledger.rows import Fault, Spend

FIGURES = RoundFigures(
    written=80,
    screened=Counter(shows=8, lacks=68, unreadable=4),
    compared=Counter(student=1, teacher=6, tie=2),
    judge={"error": 0.113, "unreadable": 0.02},
)


def state(**states: str) -> DatasetState:
    entries = {}
    for name, of in states.items():
        prompt = Prompt.create(f"prompt {name}")
        sample = None if of == "retired" else Sample(prompt, "ab", "toy", "c" * 64)
        entries[name] = PromptEntry(prompt, of, sample)
    return DatasetState("sha", entries)


def outcome(
    figures: RoundFigures | None, before: DatasetState, after: DatasetState, budget: int | None = 120
) -> RoundOutcome:
    return RoundOutcome(figures, before, after, Spend(54, 239, 0, 1.56), Spend(1065, 288, 0, 1234.5), budget)


def test_a_round_is_one_line_with_everything_it_did() -> None:
    before = state(a="live", b="live")
    after = state(a="mastered", b="live", c="live", d="retired")
    assert line_of("round 1/3", outcome(FIGURES, before, after), 2.6) == (
        "round 1/3: wrote 80 prompts, screened 76: 68 failed; bought 54 images, kept 1; mastered 1, retired 1; "
        "student wins 0.22 of 9; judge's sensitivity 0.89, specificity 0.89; so far 1,065 of 120 calls, $1,234.50 (3 s)"
    )


def test_what_was_not_measured_is_left_out() -> None:
    same = state(a="live")
    assert line_of("round 2", outcome(RoundFigures(written=3), same, same, None), 0.0) == (
        "round 2: wrote 3 prompts; bought 54 images, kept 0; mastered 0, retired 0; so far 1,065 calls, $1,234.50 (0 s)"
    )
    figures = scalars_of(outcome(RoundFigures(written=3), same, same))
    assert (figures["rounds/win_rate"], figures["rounds/failed_share"], figures["judge/error"]) == (None, None, None)


def test_seeds_and_skipped_rounds_say_what_they_are() -> None:
    before, after = state(), state(a="live", b="retired")
    assert line_of("seed prompts", outcome(None, before, after), 1.0).startswith(
        "seed prompts: bought 54 images, kept 1; retired 1; so far"
    )
    skipped = line_of("round 2/3", outcome(RoundFigures(skipped=True, judge={"error": 0.4}), after, after), 1.0)
    assert skipped.startswith(
        "round 2/3: skipped, the judge cannot be trusted; judge's sensitivity 0.60, specificity 0.60; so far"
    )


def test_the_figures_have_grouped_names() -> None:
    before, after = state(a="live"), state(a="live", b="live", c="retired")
    figures = scalars_of(outcome(FIGURES, before, after))
    assert all("/" in name for name in figures)
    assert figures["rounds/bought"] == 54 and figures["rounds/kept"] == 1 and figures["rounds/retired"] == 1
    assert figures["dataset/live"] == 2 and figures["dataset/retired"] == 1
    assert figures["cost/usd"] == 1234.5 and figures["cost/teacher_calls"] == 1065
    assert figures["rounds/failed_share"] == 68 / 76 and figures["rounds/win_rate"] == 2 / 9


GOLD = {"sensitivity": 0.95, "sensitivity looks": 20.0, "specificity": 0.9, "specificity looks": 10.0}


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (GOLD, "judge's sensitivity 0.95 of 20, specificity 0.90 of 10;"),
        (GOLD | {"specificity": 0.05}, "specificity 0.05 of 10: its looks say nothing, no correction;"),
        (
            {"canaries": 24.0, "canaries right": 24.0},
            "without gold (24 of 24 canaries right, gross errors up to 14%)",
        ),
        (
            {"canaries": 24.0, "canaries right": 18.0},
            "18 of 24 canaries right, gross errors at least 12%), no correction;",
        ),
        ({"unreadable": 0.0}, "judge's error unknown, no correction;"),
    ],
)
def test_a_line_says_how_far_the_judge_is_right_and_what_is_not_known(judge: dict[str, float], said: str) -> None:
    same = state(a="live")
    assert said in line_of("round 2", outcome(RoundFigures(judge=judge), same, same), 0.0)


def test_who_does_not_answer_stands_on_the_line() -> None:
    same = state(a="live")
    faults = [
        Fault("judge", "HTTP 429", 9),
        Fault("judge", "cut off", 3),
        Fault("teacher one", "HTTP 402: no money", 8),
    ]
    figures = RoundFigures(refused=Counter({"writer not reached": 80}))
    line = line_of("round 2", replace(outcome(figures, same, same), faults=faults), 0.0)
    assert "wrote 0 prompts (no text: writer not reached 80);" in line
    assert (
        "12 answers of the judge unread; no answer: judge 9 x HTTP 429, 3 x cut off; teacher one 8 x HTTP 402" in line
    )
    dead = RoundFigures(skipped=True, judge_silent=True)
    assert "skipped, the judge answers nothing;" in line_of("round 2", outcome(dead, same, same), 0.0)
