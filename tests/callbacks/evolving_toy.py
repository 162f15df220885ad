"""A callback that says it evolves the data, and does nothing."""

from __future__ import annotations

import lightning.pytorch as pl

from evolvedirector.evolution import Budget
from evolvedirector.evolution.round_id import RoundSettings
from evolvedirector.evolution.schedule import RoundSchedule
from evolvedirector.judges import Judge
from evolvedirector.planning.roles import EvolutionPlan
from evolvedirector.policies import EvolveDirectorPolicy
from tests.toys import ToyWriter


class Evolving(pl.Callback):
    def __init__(self, training_judge: Judge, image_size_px: int | None = None) -> None:
        self.training_judge, self.size_px = training_judge, image_size_px

    def evolution(self) -> EvolutionPlan:
        settings = RoundSettings({}, self.training_judge, ToyWriter(), EvolveDirectorPolicy(), Budget())
        return EvolutionPlan(settings, RoundSchedule(1, None), image_size_px=self.size_px)
