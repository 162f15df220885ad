"""A run without a judge: allowed where nobody is asked, refused elsewhere before anything is bought."""

from __future__ import annotations

import pytest

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.errors import RunError, UserError
from evolvedirector.judges import NoJudge
from evolvedirector.policies import Aspect, BestOfN, Policy, ScreeningPolicy, SkillCycle
from evolvedirector.records import ImageAndPrompt
from tests import toys


def evolution(policy: Policy | None) -> EvolutionCallback:
    return EvolutionCallback({"self": toys.ToyTeacher("self")}, NoJudge(), toys.ToyWriter(), policy)


@pytest.mark.parametrize("policy", [BestOfN({"chance": Aspect(by_chance=True)}), SkillCycle(["counting"])])
def test_policies_that_ask_for_no_look_need_no_judge(policy: Policy) -> None:
    callback = evolution(policy)
    assert callback.evolution().settings.judge_health is None, "nobody is there whose health could be checked"


@pytest.mark.parametrize("policy", [None, ScreeningPolicy(), SkillCycle(["counting"], check_teacher=True)])
def test_others_are_refused(policy: Policy | None) -> None:
    with pytest.raises(UserError, match=r"The judge is NoJudge, but \w+ may ask for looks.*Write `judge:"):
        evolution(policy)


def test_it_never_answers() -> None:
    with pytest.raises(RunError, match="1 looks are asked of NoJudge"):
        NoJudge().check([ImageAndPrompt("a", b"", "a red circle")])
