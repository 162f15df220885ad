"""The round and what decides in it: policies, budget, seams to the host project."""

from evolvedirector.evolution.host import EvolvingData, ImageGenerator
from evolvedirector.evolution.policy import Policy

__all__ = ["EvolvingData", "ImageGenerator", "Policy"]
