"""Rounds in memory with a student that cannot draw one word of many, and a judge that errs: milliseconds a run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from evolvedirector.evolution.history import history_of
from evolvedirector.policies import ScreeningPolicy
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Evidence,
    JudgeAccuracy,
    Look,
    Prompt,
    PromptEntry,
    RoundHistory,
    RoundInfo,
    Sample,
    Tally,
    WriteRequest,
    seed_of,
)

SKILLS = ("single", "two", "counting", "colours", "position", "binding")


def is_hidden(prompt: Prompt) -> bool:
    """Say whether a prompt needs the word that the student never saw."""
    return prompt.text.endswith("above")


@dataclass
class GapLoop:
    """Play the rounds of one run.

    Args:
        policy: Decides.
        hidden: Share of the prompts of skill `position` that need the word; p is a sixth of it.
        wrong: Share of wrong looks.
        calls: Teacher calls.
        learned_after: Images of the word from which on the student draws it. None: never.
        gold: Images of either kind that the judge is measured on. 0: its accuracy is unknown.
    """

    policy: ScreeningPolicy
    hidden: float = 0.3
    wrong: float = 0.2
    calls: int = 24
    rounds: int = 10
    seed: int = 0
    learned_after: int | None = None
    gold: int = 20
    entries: dict[str, PromptEntry] = field(default_factory=dict)
    history: list[RoundHistory] = field(default_factory=list)
    bought: list[Prompt] = field(default_factory=list)
    looks: int = 0
    further: int = 0
    first: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """Of the candidates of each round that need the word."""

    def __post_init__(self) -> None:
        for skill in SKILLS:  # what a pretrained student knows
            prompt = Prompt.create(f"{skill} known", skill=skill)
            sample = Sample.create(prompt, "0" * 64, "toy")
            self.entries[prompt.id] = PromptEntry(prompt, "mastered", sample)

    @property
    def share_in_gap(self) -> float:
        return sum(map(is_hidden, self.bought)) / max(1, len(self.bought))

    def run(self) -> GapLoop:
        gold = random.Random(seed_of("gold", self.seed))
        right = [sum(gold.random() >= self.wrong for _ in range(self.gold)) / max(1, self.gold) for _ in range(2)]
        judge = JudgeAccuracy(*right, self.gold, self.gold) if self.gold else JudgeAccuracy()
        for index in range(self.rounds):
            info = RoundInfo(
                f"r{index}", index, self.rounds, self.seed, 0, "sha", self.calls, len(self.bought), 0, judge
            )
            self._round(info)
        return self

    def _round(self, info: RoundInfo) -> None:
        state = DatasetState("sha", dict(self.entries), history=tuple(self.history))
        plan = self.policy.plan(state, info)
        parents = {entry.prompt.text: entry.prompt for entry in self.entries.values()}
        new = {p.id: p for r in plan.write for p in self._write(r, parents) if p.id not in self.entries}
        state = replace(state, entries={**state.entries, **{k: PromptEntry(p, "candidate") for k, p in new.items()}})
        evidence = [self._looked(Evidence(p.id, "screen", "shows", skill=p.skill), p, info) for p in new.values()]
        evidence = [replace(e, reading="lacks" if e.looks[0].probability < 0.5 else "shows") for e in evidence]
        allowance = Allowance(self.calls - len(self.bought), None, None)
        while asked := self.policy.look_again(state, evidence, allowance, info):
            self.further += len(asked)
            evidence = [self._looked(e, new[e.prompt_id], info) if e.prompt_id in asked else e for e in evidence]
        decisions = self.policy.decide(state, evidence, allowance, info)
        bought = [new[d.prompt_id] for d in decisions if d.kind == "buy"][: plan.budget_teacher_calls]
        self.bought += bought
        self.looks += sum(len(e.looks) for e in evidence)
        self.first.append(len(evidence))
        self.shares.append(sum(map(is_hidden, new.values())) / max(1, len(new)))
        self.entries |= {p.id: PromptEntry(p, "live", Sample.create(p, "0" * 64, "toy")) for p in bought}
        failed = {e.prompt_id for e in evidence if e.reading == "lacks"}
        tallies = [(p.skill, p.lineage_id, Tally(1, int(p.id in failed))) for p in new.values()]
        operations: dict = {}
        for p in new.values():
            seen = operations.get((p.skill, p.origin), Tally())
            operations[p.skill, p.origin] = Tally(seen.looked + 1, seen.failed + (p.id in failed))
        self.history.append(history_of(info.round_id, info.judge, tallies, failed, operations))

    def _looked(self, item: Evidence, prompt: Prompt, info: RoundInfo) -> Evidence:
        learned = self.learned_after is not None and sum(map(is_hidden, self.bought)) >= self.learned_after
        flip = random.Random(seed_of("look", self.seed, info.round_id, prompt.id, len(item.looks))).random()
        lacks = (is_hidden(prompt) and not learned) != (flip < self.wrong)
        return replace(item, looks=(*item.looks, Look(f"{len(item.looks)}", 0.1 if lacks else 0.9)))

    def _write(self, request: WriteRequest, parents: dict[str, Prompt]) -> Sequence[Prompt]:
        parent, draw = parents.get(request.parent or ""), random.Random(request.seed)
        order = draw.sample(SKILLS, len(SKILLS))
        for n in range(request.count):
            skill = request.skill or order[n % len(order)]
            hidden = is_hidden(parent) if parent else skill == "position" and draw.random() < self.hidden
            text = f"{skill} {draw.randrange(10**9)} {'above' if hidden else 'plain'}"
            yield Prompt.create(text, request.operation, skill, parent)
