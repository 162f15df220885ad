"""Plans of stages: which one a step lies in, and what does not fit a training."""

from __future__ import annotations

from typing import Any

import pytest

from evolvedirector.errors import UserError
from evolvedirector.experts.stages import (
    Stage,
    check_names,
    check_plan,
    check_same_plan,
    chosen_stages,
    ended_stages,
    stage_at,
)
from evolvedirector.records.subset import EVERYTHING, Subset

PLAN = [Stage("counting", 4, Subset(["counting"])), Stage("colour", 2), Stage("gate", 2, kind="gate")]
TOWER = [Stage("low", 4), Stage("middle", 2), Stage("top", 2, on_top_of={"low": 0.5, "middle": 0.5})]


def test_each_step_lies_in_one_stage() -> None:
    found = [stage_at(PLAN, step) for step in range(9)]
    assert [stage.name if stage else None for stage in found] == (
        ["counting"] * 4 + ["colour"] * 2 + ["gate"] * 2 + [None]
    )
    assert [len(ended_stages(PLAN, step)) for step in (0, 3, 4, 5, 6, 8)] == [0, 0, 1, 1, 2, 3]


def test_a_stage_without_subset_reads_everything() -> None:
    assert PLAN[1].subset == EVERYTHING
    assert Stage("colour", 2, {"skills": ["colour"]}).subset == Subset(["colour"])  # type: ignore[arg-type]


def test_one_stage_may_be_the_whole_training() -> None:
    assert chosen_stages(PLAN, "colour") == [PLAN[1]] and chosen_stages(PLAN, None) == PLAN


@pytest.mark.parametrize(
    ("check", "line"),
    [
        (lambda: Stage("counting", 0), "has 0 steps. Allowed: expert or gate, and 1 step or more"),
        (lambda: Stage("counting", 1, kind="merge"), "is of kind 'merge'"),  # type: ignore[arg-type]
        (lambda: chosen_stages([], None), "stages is []"),
        (lambda: chosen_stages([PLAN[0], PLAN[0]], None), "each with a name of its own"),
        (lambda: chosen_stages(PLAN, "blue"), "only is 'blue'"),
        (
            lambda: chosen_stages(TOWER, "top"),
            "only is 'top', a stage that needs what the stages before it train: low",
        ),
        (lambda: chosen_stages(TOWER, "top"), "Write only: null"),
        (lambda: chosen_stages(TOWER, "top"), "its checkpoint of step 6"),
        (lambda: chosen_stages(PLAN, "gate"), "only is 'gate', a stage that needs what the stages before it train: "),
        (lambda: check_names(TOWER[::2], ["low", "top"], []), "is on top of 'middle', which no stage before it trains"),
        (lambda: check_plan(PLAN, 8, 4), "Stage 'colour' has 2 steps, and an epoch has 4"),
        (lambda: check_plan(PLAN, 9, 2), "have 8 steps together, and the training 9"),
        (lambda: check_plan(PLAN, None, 2), "the training has no end"),
        (lambda: check_names(PLAN, ["counting"], []), "trained.experts: [counting, colour]"),
        (lambda: check_names(PLAN, [], []), "Allowed: none yet"),
        (lambda: check_names(PLAN, ["counting", "colour"], []), "trained.gate: {kind: pooled}"),
    ],
)
def test_what_does_not_fit_is_told(check: Any, line: str) -> None:
    with pytest.raises(UserError) as refused:
        check()
    assert line in str(refused.value)


def test_a_plan_that_fits_is_taken() -> None:
    check_plan(PLAN, 8, 2)
    check_names(PLAN, ["counting", "colour"], ["counting", "colour"])


def test_stages_that_have_begun_stay_as_they_are() -> None:
    saved = [stage.plain() for stage in PLAN]
    longer = [PLAN[0], Stage("colour", 4), PLAN[2]]
    check_same_plan(longer, saved, 4)
    with pytest.raises(UserError, match=r"Stage 2 is .*'steps': 4.*was trained in .*'steps': 2"):
        check_same_plan(longer, saved, 5)
    with pytest.raises(UserError, match="was trained in None"):
        check_same_plan(PLAN, saved[:1], 5)
