"""Policies: pure functions from what was seen to what is written, bought, mastered and retired."""

from evolvedirector.policies.best_of_n import Aspect, BestOfN
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.policies.operations import Operation
from evolvedirector.policies.policy import Confirms, Policy, RunSize
from evolvedirector.policies.screening.policy import ScreeningPolicy
from evolvedirector.policies.screening.settings import Confirming, Mastery, Pace, Screening, Weighting
from evolvedirector.policies.skill_cycle import SkillCycle

__all__ = [
    "Aspect",
    "BestOfN",
    "Confirming",
    "Confirms",
    "EvolveDirectorPolicy",
    "Mastery",
    "Operation",
    "Pace",
    "Policy",
    "RunSize",
    "Screening",
    "ScreeningPolicy",
    "SkillCycle",
    "Weighting",
]
