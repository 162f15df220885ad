"""Policies: pure functions from what was seen to what is written, bought, mastered and retired."""

from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.policies.policy import Policy, RunSize
from evolvedirector.policies.screening.policy import ScreeningPolicy

__all__ = ["EvolveDirectorPolicy", "Policy", "RunSize", "ScreeningPolicy"]
