"""Settings as Hydra gives them: mappings are taken, descriptions of parts are refused at construction."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.errors import UserError
from evolvedirector.evolution import Budget
from evolvedirector.judges import JudgeHealth
from evolvedirector.policies import ScreeningPolicy
from tests.toys import ToyJudge, ToyTeacher, ToyWriter

PARTS: dict[str, Any] = {"teachers": {"toy": ToyTeacher()}, "judge": ToyJudge(), "writer": ToyWriter()}


@pytest.mark.parametrize("made", [dict, OmegaConf.create])
def test_mappings_of_settings_are_taken(made: Any) -> None:
    budget = made({"budget_teacher_calls": 5, "teacher_budgets": {"toy": 3}})
    evolution = EvolutionCallback(**PARTS, budget=budget, judge_health=made({"canaries_per_round": 2}))
    assert evolution.budget == Budget(budget_teacher_calls=5, teacher_budgets={"toy": 3})
    assert type(evolution.budget.teacher_budgets) is dict
    assert evolution.judge_health == JudgeHealth(canaries_per_round=2)
    assert ScreeningPolicy(pace=made({"test_all_share": 0.2})).fingerprint


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": {"teacher_calls": 5}}, "budget has no setting 'teacher_calls'.*Did you mean"),
        ({"budget": {"budget_teacher_calls": -1}}, "budget_teacher_calls is -1"),
        ({"budget": 500}, r"budget is 500, a int.*Write budget=Budget\("),
        (
            {"policy": {"_target_": "evolvedirector.policies.ScreeningPolicy"}},
            "policy is a mapping.*`policy: {_target_",
        ),
        ({"policy": "screening"}, "policy is 'screening'"),
        ({"judge": ToyJudge}, "judge is .*ToyJudge"),
        ({"teachers": {"toy": {"_target_": "x"}}}, "teachers.toy is a mapping"),
    ],
)
def test_what_nobody_built_is_refused_at_construction(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        EvolutionCallback(**{**PARTS, **given})
