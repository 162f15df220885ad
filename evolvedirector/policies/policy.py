"""The seam behind which every policy stands: pure functions from evidence to decisions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from evolvedirector.records import Allowance, DatasetState, Decision, Evidence, RoundInfo, RoundPlan, TrainingMix

LOOKS_PER_BOUGHT_IMAGE = 5
"""Is it faithful (1), does it beat a rival's (2: both orders), does it beat the student's (2)?"""


@dataclass(frozen=True, slots=True)
class RunSize:
    """How large a run is planned to be, for a policy that says what it may ask of the judge.

    Args:
        rounds: Rounds in all. None: no end is set.
        budget_teacher_calls: Images asked of teachers in all. None: no limit.
        seeds: Seed prompts.
        skills: Skills among the seeds.
    """

    rounds: int | None
    budget_teacher_calls: int | None
    seeds: int = 0
    skills: int = 0


@runtime_checkable
class Policy(Protocol):
    """Say what a round looks at and what follows from what it saw. Same state, evidence and seed: same decisions."""

    @property
    def fingerprint(self) -> str:
        """Name the rule, its version and every setting; with another one another round decides."""
        ...

    @property
    def checks_seeds(self) -> bool:
        """Whether the images bought for seed prompts are checked like all others before they are trained on."""
        ...

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

    def most_looks(self, size: RunSize) -> int | None:
        """Return the most looks that a run of this size may ask of its judge; None where nothing bounds them."""
        ...


@runtime_checkable
class Confirms(Protocol):
    """A policy that has candidates looked at again before it decides, each time at another drawing of the student."""

    def look_again(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> Sequence[str]:
        """Name candidates to look at once more, the most urgent first; asked again with what came of it, until none."""
        ...


@runtime_checkable
class DrawsByLoss(Protocol):
    """A policy that may have the student's losses measured; a student that has none is refused before a run."""

    @property
    def most_losses(self) -> int:
        """Return on how many samples a round measures the loss, at most; 0 where draws do not follow losses."""
        ...


@runtime_checkable
class NeedsBudget(Protocol):
    """A policy that cannot work with every budget."""

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def check_budget(self, budget_teacher_calls: int | None) -> Any:
        """Raise `ValueError` where the limit of teacher calls is none that it can work with; None is no limit."""
        ...


@runtime_checkable
class NeedsParts(Protocol):
    """A policy that names teachers or rewards in its settings."""

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def check_parts(self, teachers: Collection[str], rewards: Collection[str]) -> Any:
        """Raise `ValueError` where one that it names takes no part; both are given by name."""
        ...


@runtime_checkable
class LeavesSeeds(Protocol):
    """A policy whose rounds draw the seed prompts themselves: no teacher draws them before the first round."""

    @property
    def leaves_seeds(self) -> bool:
        """Whether seed prompts wait for a round."""
        ...
