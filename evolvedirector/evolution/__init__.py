"""The round and what decides in it: policies, budget, seams to the host project."""

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.evolve_director_policy import EvolveDirectorPolicy
from evolvedirector.evolution.host import EvolvingData, ImageGenerator
from evolvedirector.evolution.policy import Policy
from evolvedirector.evolution.screening_policy import ScreeningPolicy

__all__ = ["Budget", "EvolveDirectorPolicy", "EvolvingData", "ImageGenerator", "Policy", "ScreeningPolicy"]
