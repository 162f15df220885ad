"""The seam behind which every policy stands: pure functions from evidence to decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.records import Allowance, DatasetState, Decision, Evidence, RoundInfo, RoundPlan, TrainingMix


@runtime_checkable
class Policy(Protocol):
    """Say what a round looks at and what follows from what it saw. Same state, evidence and seed: same decisions.

    A policy with an attribute `checks_seeds` that is true also has the images bought for seed prompts checked.
    """

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Choose what to write, render and look at before anything is decided."""
        ...

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Decide for the whole round at once, within the allowance; `buy` decisions are in order of urgency."""
        ...

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Say how often the next training draws from each skill; None leaves it as it is."""
        ...
