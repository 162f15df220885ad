"""The round: its steps in order, its budget, and the seams to the project that hosts it."""

from typing import Any

from evolvedirector.evolution.background_rounds import BackgroundRounds
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import EvolvingData, ImageGenerator, MeasuresLoss, ReadsFiles
from evolvedirector.renamed import old_attribute

__all__ = ["BackgroundRounds", "Budget", "EvolvingData", "ImageGenerator", "MeasuresLoss", "ReadsFiles"]


def __getattr__(name: str) -> Any:
    return old_attribute(__name__, name)
