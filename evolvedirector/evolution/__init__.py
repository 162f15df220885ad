"""The round: its steps in order, its budget, and the seams to the project that hosts it."""

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import EvolvingData, ImageGenerator

__all__ = ["Budget", "EvolvingData", "ImageGenerator"]
