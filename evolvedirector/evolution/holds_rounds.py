"""The seam of rounds over something else than prompts: the callback says when, the driver carries, this says what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from evolvedirector.errors import RunError
from evolvedirector.evolution.round_parts import Round
from evolvedirector.execution.executor import Tenants
from evolvedirector.policies.policy import RunSize
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    RoundInfo,
    RoundPlan,
    TrainingMix,
    WriteReply,
    WriteRequest,
)
from evolvedirector.records.part import Part


@runtime_checkable
class HoldsRounds(Protocol):
    """Whoever holds the rounds of a dataset in which a text alone does not say what is missing: pairs of subjects.

    `EvolutionCallback` schedules them as all rounds: a checkpoint first, a name that follows from step, revision and
    everybody who decides, and a revision to go on with.
    """

    @property
    def fingerprint(self) -> str:
        """Name everything that decides such a round; with another one another round decides."""
        ...

    def parts(self) -> Mapping[str, Part]:
        """Name everybody who is asked, for those who verify and size them."""
        ...

    def tenants(self) -> Tenants:
        """Say who is asked in which phase, beside the student."""
        ...

    def selectors(self) -> Sequence[Part]:
        """List those whose opinion chooses what is trained on: none of them may read the figures."""
        ...

    def summary(self) -> Mapping[str, str]:
        """Say in words what a round does and may use up, for `evolvedirector check`."""
        ...

    def hold(self, round: Round) -> str:
        """Hold a round and return the sha of its revision; held again after a kill, it does only what is missing."""
        ...


class NoPrompts:
    """Stand where rounds take a writer and a policy of prompts, and hold none over prompts: nobody asks it anything."""

    checks_seeds = False

    @property
    def fingerprint(self) -> str:
        """Name that there is none."""
        return "no prompts"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        """Refuse.

        Raises:
            RunError: Always.
        """
        raise RunError(
            f"{len(requests)} texts are asked of nobody. Allowed are rounds over pairs. Write `writer:` in "
            "EvolutionCallback where rounds are over prompts."
        )

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Plan nothing."""
        return RoundPlan()

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Decide nothing."""
        return []

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Leave the mix as it is."""
        return None

    def most_looks(self, size: RunSize) -> int | None:
        """Ask the judge of prompts nothing."""
        return 0

    def close(self) -> Any:
        """Do nothing: nothing is held."""
