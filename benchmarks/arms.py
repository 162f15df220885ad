"""Policies that are used only as controls of the benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evolvedirector.policies.policy import Policy, RunSize
from evolvedirector.policies.screening.rates import last_buying_rounds, round_allowance
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    PromptEntry,
    RoundInfo,
    RoundPlan,
    TrainingMix,
    WriteRequest,
    digest,
    seed_of,
)
from evolvedirector.worlds.shapes.prompts import apportion


def allowance_of_round(round: RoundInfo) -> int:
    """Return how many teacher calls a round may spend when buying ends at half of training.

    A_k = S + (B - S) * min(1, (k + 1) / ceil(K / 2)) - bought, the schedule of `ScreeningPolicy`.

    Raises:
        ValueError: The run has no budget or no known end.
    """
    if round.budget_teacher_calls is None or not round.rounds:
        raise ValueError(
            f"A budget of {round.budget_teacher_calls} calls over {round.rounds} rounds has no schedule. Allowed are "
            "runs with both. Set `budget_teacher_calls` and the number of rounds."
        )
    return round_allowance(
        round.budget_teacher_calls, round.seed_calls, round.teacher_calls, round.index, round.rounds, open_end_share=0.0
    )


def buying_ends(round: RoundInfo, buying_share: float = 0.5) -> bool:
    """Say whether buying ends with this round, or should have: the round in which it did may have been skipped."""
    return round.rounds is not None and round.index + 1 >= last_buying_rounds(round.rounds, buying_share)


class SpreadPolicy:
    """Buy what the writer writes, spread evenly over the skills, without any judge.

    The control that shows what the judge itself is worth: the same writer, the same budget and the same schedule as
    `ScreeningPolicy`, and no evidence. A skill without news leaves its part to the others.

    Args:
        skills: Among which the purchases are spread.
        evenly_drawn: Training draws from each skill equally often; off: every image equally often.
        spare: How many times as many texts are asked for as are bought, since some are no news.
    """

    checks_seeds = False

    def __init__(self, skills: Sequence[str], evenly_drawn: bool = True, spare: float = 3.0) -> None:
        self.skills = tuple(skills)
        self.evenly_drawn = evenly_drawn
        self.spare = spare

    @property
    def fingerprint(self) -> str:
        """Name every setting."""
        return f"spread-1/{digest(repr((self.skills, self.evenly_drawn, self.spare)))}"

    def most_looks(self, size: RunSize) -> int:
        """Return 0: nothing is looked at."""
        return 0

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Ask the writer for texts of every skill."""
        allowance = allowance_of_round(round)
        if allowance == 0:
            return RoundPlan()
        count = math.ceil(self.spare * allowance / len(self.skills))
        requests = _requests(self.skills, "mutation", count, round)
        return RoundPlan(write=requests, screen=False, budget_teacher_calls=allowance)

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Buy as many of each skill, whatever was seen."""
        count = _least(allowance_of_round(round), allowance.teacher_calls)
        return _buy(candidates_by_skill(state), dict.fromkeys(self.skills, 1.0), count, "spread over skills")

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Draw every skill equally often."""
        return TrainingMix(dict.fromkeys(self.skills, 1.0), 0.0) if self.evenly_drawn else None


class SpendsTheRest:
    """Let a policy decide, and spend what is left after its last buying round on prompts as the seeds were.

    Arms of a comparison must spend the same. In the last buying round the writer is asked for prompts of operation
    `seed` in the shares of the seeds; they are bought after everything that the policy wants, and the policy sees
    neither them nor what was seen of them. Prompts are unique by text: a skill that has no text left leaves its part
    to the others.

    Args:
        policy: Decides first.
        shares: Weight per skill among the seeds.
        spare: How many times as many texts are asked for as could be bought, since some are no news.
        buying_share: Share of the rounds in which images are bought.
    """

    def __init__(
        self, policy: Policy, shares: Mapping[str, float], spare: float = 2.0, buying_share: float = 0.5
    ) -> None:
        self.policy = policy
        self.shares = dict(shares)
        self.spare = spare
        self.buying_share = buying_share
        self.checks_seeds = policy.checks_seeds

    @property
    def fingerprint(self) -> str:
        """Name the policy and how the rest is spent."""
        settings = repr((sorted(self.shares.items()), self.spare, self.buying_share))
        return f"spends-the-rest-1/{digest(self.policy.fingerprint, settings)}"

    def most_looks(self, size: RunSize) -> int | None:
        """Return what the policy may ask: no look is spent on the rest."""
        return self.policy.most_looks(size)

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Add requests for seeds to the policy's plan in the last buying round."""
        plan = self.policy.plan(state, round)
        if round.budget_teacher_calls is None or not buying_ends(round, self.buying_share):
            return plan
        left = round.budget_teacher_calls - round.teacher_calls
        count = math.ceil(self.spare * left)
        requests = _requests(list(self.shares), "seed", count, round) if left > 0 else ()
        screen = plan.screen and bool(plan.write)  # no look is spent on what is bought in any case
        return replace(plan, write=(*plan.write, *requests), screen=screen, budget_teacher_calls=None)

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Append purchases of seeds to the policy's decisions, as many as the budget has left."""
        shown, hidden = self._without_rest(state)
        decisions = self.policy.decide(
            shown, [item for item in evidence if item.prompt_id not in hidden], allowance, round
        )
        if round.budget_teacher_calls is None or not buying_ends(round, self.buying_share):
            return decisions
        wanted = sum(1 for item in decisions if item.kind == "buy")
        wanted += sum(item.count for item in decisions if item.kind in ("expand", "mutate"))
        left = _least(round.budget_teacher_calls - round.teacher_calls, allowance.teacher_calls) - wanted
        rest: dict[str, list[str]] = {}
        for key in hidden:
            rest.setdefault(state.entries[key].prompt.skill, []).append(key)
        return decisions + _buy(rest, self.shares, left, "the rest of the budget")

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Draw as the policy says."""
        shown, hidden = self._without_rest(state)
        return self.policy.mix(shown, [item for item in evidence if item.prompt_id not in hidden], round)

    def _without_rest(self, state: DatasetState) -> tuple[DatasetState, list[str]]:
        hidden = [entry.prompt.id for entry in state.in_state("candidate") if entry.prompt.origin == "seed"]
        if not hidden:
            return state, hidden
        shown: dict[str, PromptEntry] = {key: entry for key, entry in state.entries.items() if key not in set(hidden)}
        return replace(state, entries=shown), hidden


def candidates_by_skill(state: DatasetState) -> dict[str, list[str]]:
    """List the ids of the candidates by skill, in the order in which they were written."""
    found: dict[str, list[str]] = {}
    for entry in state.in_state("candidate"):
        found.setdefault(entry.prompt.skill, []).append(entry.prompt.id)
    return found


def _requests(skills: Sequence[str], operation: str, count: int, round: RoundInfo) -> tuple[WriteRequest, ...]:
    return tuple(
        WriteRequest(
            digest(operation, round.round_id, skill),
            operation,  # type: ignore[arg-type]
            None,
            skill,
            count,
            seed_of(operation, round.seed, round.round_id, skill),
        )
        for skill in skills
    )


def _buy(by_skill: Mapping[str, list[str]], shares: Mapping[str, float], count: int, reason: str) -> list[Decision]:
    """Buy in the shares of the skills, as far as each has prompts."""
    parts = apportion(max(0, count), list(shares.values()), [len(by_skill.get(skill, ())) for skill in shares])
    chosen = [by_skill[skill][:part] for skill, part in zip(shares, parts, strict=True) if part]
    return [Decision("buy", prompt_id, 1, reason) for ids in chosen for prompt_id in ids]


def _least(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)
