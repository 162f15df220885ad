"""Policies: pure functions from what was seen to what is written, bought, mastered and retired."""

from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.policies.operations import Operation
from evolvedirector.policies.policy import Policy, RunSize
from evolvedirector.policies.screening.policy import ScreeningPolicy
from evolvedirector.policies.screening.settings import Mastery, Pace, Screening, Weighting

__all__ = [
    "EvolveDirectorPolicy",
    "Mastery",
    "Operation",
    "Pace",
    "Policy",
    "RunSize",
    "Screening",
    "ScreeningPolicy",
    "Weighting",
]
