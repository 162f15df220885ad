"""The published rule of EvolveDirector."""

from __future__ import annotations

import random
from collections.abc import Sequence, Set

from evolvedirector.policies.operations import Operation, checked_operations
from evolvedirector.policies.policy import RunSize
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    RoundInfo,
    RoundPlan,
    TrainingMix,
    Verdict,
    digest,
    seed_of,
)


class EvolveDirectorPolicy:
    """Apply the published rule to the letter, inside a budget.

    EvolveDirector (arXiv 2410.07133, released code): each round the judge looks once, in random order, at 20 % of the
    live prompts (all of them when there are 100 or fewer). Student better: delete, and with probability 0.1 mutate
    once. Teacher better: keep, and expand by 3. Unreadable: keep. The expected change of a set of N prompts with
    teachers winning a share p of looks is dN = 0.2 N (3.9 p - 0.9) per round. Each of the four operations can be
    left out, for ablations.

    Args:
        select_share: Share of the live prompts looked at per round.
        select_all_up_to: Look at all live prompts when there are at most this many.
        expansions: Children written for a prompt whose teacher image is better.
        mutation_probability: Probability of one mutation per deletion.
        check_teacher: Check bought images, those of the seeds included, and never train on an unfaithful one: then none
            can win a comparison and be expanded. The paper trusts its teachers; a `FaithfulnessJudge` does the same
            for comparisons without it.
        without: Operations to leave out. `discrimination`: the judge is not asked, a seeded coin decides who is better.
            `expansion`: nothing is expanded. `deletion`: nothing is deleted (mutation still happens where a deletion
            would). `mutation`: nothing is mutated.

    Raises:
        ValueError: A share or probability outside of [0, 1], a negative count, or an unknown operation.
    """

    def __init__(
        self,
        select_share: float = 0.2,
        select_all_up_to: int = 100,
        expansions: int = 3,
        mutation_probability: float = 0.1,
        check_teacher: bool = False,
        without: Set[Operation] = frozenset(),
    ) -> None:
        for name, value in (("select_share", select_share), ("mutation_probability", mutation_probability)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}. Allowed: 0 to 1. Write `{name}: 0.2`, say.")
        for name, value in (("expansions", expansions), ("select_all_up_to", select_all_up_to)):
            if value < 0:
                raise ValueError(f"{name} is {value}. Allowed: 0 or more. Write `{name}: 3`, say.")
        self.select_share = select_share
        self.select_all_up_to = select_all_up_to
        self.expansions = expansions
        self.mutation_probability = mutation_probability
        self.check_teacher = check_teacher
        self.checks_seeds = check_teacher
        self.without = checked_operations(without)

    @property
    def fingerprint(self) -> str:
        """Name the rule and every setting."""
        numbers = (self.select_share, self.select_all_up_to, self.expansions, self.mutation_probability)
        return f"evolve-director-1/{digest(repr((*numbers, self.check_teacher, self.without)))}"

    def most_looks(self, size: RunSize) -> int | None:
        """Return the most looks of a run: a share of the live prompts, never more than seeds and images bought.

        Args:
            size: Of the run.
        """
        if size.rounds is None or size.budget_teacher_calls is None:
            return None
        checks = size.budget_teacher_calls if self.check_teacher else 0
        if "discrimination" in self.without:
            return checks
        live = size.seeds + size.budget_teacher_calls
        chosen = live if live <= self.select_all_up_to else max(self.select_all_up_to, 1)
        return size.rounds * max(chosen, int(self.select_share * live)) + checks

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Choose a uniform random share of the live prompts, to be looked at once."""
        if "discrimination" in self.without:
            return RoundPlan(check_teacher=self.check_teacher)
        return RoundPlan(compare=self._selected(state, round), check_teacher=self.check_teacher)

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Turn each verdict into the published operations; the budget cuts the purchases, not the decisions."""
        verdicts = {item.prompt_id: item.verdict for item in evidence if item.verdict is not None}
        if "discrimination" in self.without:
            verdicts = {key: self._coin(round, key) for key in self._selected(state, round)}
        decisions: list[Decision] = []
        for prompt_id, verdict in sorted(verdicts.items()):
            if verdict == "student":
                decisions += self._caught_up(round, prompt_id)
            elif verdict == "teacher" and "expansion" not in self.without and self.expansions:
                decisions.append(Decision("expand", prompt_id, self.expansions, "teacher better"))
            else:
                decisions.append(Decision("keep", prompt_id, 1, f"verdict: {verdict}"))
        return decisions

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Leave the draws as they are: the published rule draws every live prompt equally often."""
        return None

    def _caught_up(self, round: RoundInfo, prompt_id: str) -> list[Decision]:
        kind = "keep" if "deletion" in self.without else "retire"
        decisions = [Decision(kind, prompt_id, 1, "student better")]  # type: ignore[arg-type]
        draw = random.Random(seed_of("mutate", round.seed, round.round_id, prompt_id)).random()
        if "mutation" not in self.without and draw < self.mutation_probability:
            decisions.append(Decision("mutate", prompt_id, 1, "student better"))
        return decisions

    def _selected(self, state: DatasetState, round: RoundInfo) -> tuple[str, ...]:
        live = sorted(entry.prompt.id for entry in state.in_state("live"))
        if len(live) <= self.select_all_up_to:
            return tuple(live)
        draw = random.Random(seed_of("select", round.seed, round.round_id))
        return tuple(sorted(draw.sample(live, max(1, int(self.select_share * len(live))))))

    def _coin(self, round: RoundInfo, prompt_id: str) -> Verdict:
        return "teacher" if seed_of("coin", round.seed, round.round_id, prompt_id) % 2 else "student"
