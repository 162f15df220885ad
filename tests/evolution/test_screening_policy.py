"""A world of words: the prompt `two 17` has skill `two`; a student is a function from skill and trained texts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.evolution.history import history_of
from evolvedirector.evolution.policy import Policy
from evolvedirector.evolution.screening_policy import ScreeningPolicy
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    Prompt,
    PromptEntry,
    RoundHistory,
    RoundInfo,
    RoundPlan,
    Sample,
    Tally,
    TrainingMix,
    Verdict,
    WriteRequest,
    seed_of,
)

SKILLS = ("single", "two", "counting", "colours", "position", "binding")
FREE = Allowance(None, None, None)
Fails = Callable[[Prompt, int], bool]
"""Does the student fail this unseen prompt in this round?"""


def never(prompt: Prompt, round: int) -> bool:
    return False


def always(prompt: Prompt, round: int) -> bool:
    return True


def seeds(**counts: int) -> dict[str, PromptEntry]:
    prompts = [Prompt.create(f"{skill} seed {n}", skill=skill) for skill, count in counts.items() for n in range(count)]
    return {p.id: live(p) for p in prompts}


def live(prompt: Prompt) -> PromptEntry:
    return PromptEntry(prompt, "live", Sample.create(prompt, "0" * 64, "toy"))


def state_of(entries: Mapping[str, PromptEntry], *history: RoundHistory) -> DatasetState:
    return DatasetState("sha", dict(entries), history=history)


def info(index: int = 0, rounds: int | None = 10, budget: int | None = 100, bought: int = 10, **more) -> RoundInfo:
    return RoundInfo(f"r{index}", index, rounds, more.pop("seed", 0), 0, "sha", budget, bought, 10, **more)


def screened(prompts: list[Prompt], verdict: Verdict = "teacher") -> list[Evidence]:
    return [Evidence(prompt.id, "screen", verdict) for prompt in prompts]


def candidates(parent: Prompt | None = None, **counts: int) -> list[Prompt]:
    made = [(f"{skill} new {n}", skill) for skill, count in counts.items() for n in range(count)]
    return [Prompt.create(text, "expansion" if parent else "mutation", skill, parent) for text, skill in made]


def with_candidates(state: DatasetState, prompts: list[Prompt]) -> DatasetState:
    return replace(state, entries={**state.entries, **{p.id: PromptEntry(p, "candidate") for p in prompts}})


@dataclass
class Loop:
    """The round in memory: a writer of numbers, a student that remembers what it was trained on, a noisy judge."""

    policy: Policy
    fails: Fails
    entries: dict[str, PromptEntry]
    budget: int = 100
    rounds: int = 10
    wrong: float = 0.0
    seed: int = 0
    refuses: bool = False
    skills: tuple[str, ...] = SKILLS
    plans: list[RoundPlan] = field(default_factory=list)
    decisions: list[list[Decision]] = field(default_factory=list)
    mixes: list[TrainingMix | None] = field(default_factory=list)
    history: list[RoundHistory] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)

    def write(self, request: WriteRequest, parents: Mapping[str, Prompt]) -> list[Prompt]:
        if self.refuses:
            return []
        parent = parents.get(request.parent or "")
        order = random.Random(request.seed).sample(self.skills, len(self.skills))
        named = [request.skill or order[n % len(order)] for n in range(request.count)]
        texts = [f"{skill} {seed_of(request.seed, n) % 10**9}" for n, skill in enumerate(named)]
        return [Prompt.create(t, request.operation, s, parent) for t, s in zip(texts, named, strict=True)]

    def run(self) -> Loop:
        seed_calls = len(self.entries)
        self.spent.append(seed_calls)
        for index in range(self.rounds):
            name = f"r{index}"
            round = RoundInfo(
                name, index, self.rounds, self.seed, 0, "sha", self.budget, self.spent[-1], seed_calls, self.wrong
            )
            state = state_of(self.entries, *self.history)
            plan = self.policy.plan(state, round)
            parents = {entry.prompt.text: entry.prompt for entry in self.entries.values()}
            new = {p.id: p for request in plan.write for p in self.write(request, parents) if p.id not in self.entries}
            flips = random.Random(seed_of("judge", self.seed, name))
            evidence = [Evidence(k, "screen", self.verdict(self.fails(p, index), flips)) for k, p in new.items()]
            evidence += [Evidence(key, "probe", self.verdict(False, flips)) for key in plan.probe]  # all memorised
            state = with_candidates(state, list(new.values()))
            allowance = Allowance(self.budget - self.spent[-1], None, None)
            decisions = self.policy.decide(state, evidence, allowance, round)
            bought = [new[d.prompt_id] for d in decisions if d.kind == "buy"][: plan.budget_teacher_calls]
            self.plans.append(plan), self.decisions.append(decisions)
            self.mixes.append(self.policy.mix(state, evidence, round))
            for decision in decisions:
                if decision.kind in ("master", "revive", "retire"):
                    to = {"master": "mastered", "revive": "live", "retire": "retired"}[decision.kind]
                    self.entries[decision.prompt_id] = replace(self.entries[decision.prompt_id], state=to)  # type: ignore
            self.entries |= {p.id: live(p) for p in bought}
            self.spent.append(self.spent[-1] + len(bought))
            known = {key: entry.prompt for key, entry in state.entries.items()}
            self.history.append(history_of(name, self.wrong, evidence, known))
        return self

    def verdict(self, failed: bool, flips: random.Random) -> Verdict:
        return "teacher" if failed != (flips.random() < self.wrong) else "student"


def test_it_is_a_policy() -> None:
    assert isinstance(ScreeningPolicy(), Policy)


def test_a_student_that_fails_the_unseen_makes_it_spend_everything_by_half_of_training() -> None:
    loop = Loop(ScreeningPolicy(), always, seeds(single=9, two=1)).run()
    assert loop.spent[5:] == [100] * 6
    assert loop.spent[1:5] == [28, 46, 64, 82]
