"""One run of the policy trial: the real loop on the real store, with a student that trains in a second."""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.arms import SpreadPolicy
from benchmarks.trial_student import TrialStudent
from benchmarks.trial_world import (
    EASY_SHARES,
    IMAGE_SIZE_PX,
    WORLD,
    TrialGold,
    TrialJudge,
    TrialPrompts,
    TrialTeacher,
)
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.opening import run_seeding
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundParts, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.policies.policy import Policy
from evolvedirector.records import RevisionChange, RoundInfo, seed_of
from evolvedirector.store.dataset import DatasetStore
from evolvedirector.worlds.shapes import HeldOutPrompts, MiniatureWriter
from evolvedirector.worlds.shapes.prompts import repetition

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class TrialSize:
    """How large a run is; equal in every arm.

    Args:
        calls: N, the teacher calls of an arm that evolves.
        seed_calls: How many of them buy the seeds.
        images: Images seen in training.
        rounds: Rounds of evolution; training goes on for one more stretch after the last.
        batch_size: Images per optimizer step.
        hidden: Width of the student.
        learning_rate: Of Adam.
        held_out_per_skill: Prompts that accuracy is measured on, fewer where a skill has no more to hold out.
        gold: Pictures with known answers, on which the judge's error is estimated.
    """

    calls: int = 400
    seed_calls: int = 40
    images: int = 53_248
    rounds: int = 12
    batch_size: int = 64
    hidden: int = 256
    learning_rate: float = 2e-3
    held_out_per_skill: int = 64
    gold: int = 40


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to spend teacher calls.

    Args:
        policy: Makes the policy; None buys a static set and never looks again.
        times_n: Teacher calls, in N.
        shares: Weight of each skill among the seeds, or in the static set.
        judge: Knobs of `TrialJudge`.
        checked: Measure the judge before each round, and skip the round when it cannot be trusted.
    """

    policy: Callable[[], Policy] | None = None
    times_n: int = 1
    shares: Mapping[str, float] = field(default_factory=lambda: EASY_SHARES)
    judge: Mapping[str, Any] = field(default_factory=dict)
    checked: bool = True


class Trial:
    """Everything of one run; used once."""

    def __init__(self, arm: Arm, seed: int, size: TrialSize, root: Path) -> None:
        self.arm, self.seed, self.size = arm, seed, size
        self.budget = arm.times_n * size.calls
        self.held_out = HeldOutPrompts(WORLD, size.held_out_per_skill, seed)
        self.steps = size.images // size.batch_size
        self.student = TrialStudent(size.hidden, self.steps, size.learning_rate, seed)
        self.judge = TrialJudge(**arm.judge)
        self.gold = TrialGold(size.gold, self.held_out, seed)
        self.writer = MiniatureWriter(WORLD, self.held_out)
        self.store = DatasetStore(root, create=True)
        self.policy: Policy = arm.policy() if arm.policy else SpreadPolicy(WORLD.skills)  # a static set asks no policy
        self.done = 0

    def run(self) -> dict[str, Any]:
        """Seed, train and evolve in turns; return what became of it."""
        sha = self._seeded()
        stretches = self.size.rounds + 1 if self.arm.policy else 1
        for stretch in range(stretches):
            until = self.steps * (stretch + 1) // stretches
            self.student.train(
                self.store.root, sha, range(until - self.done), self.size.batch_size, seed_of(self.seed, stretch)
            )
            self.done = until
            if stretch < stretches - 1:
                sha = run_round(self._context(sha, stretch))
                if stretch == math.ceil(self.size.rounds / 2) - 1:
                    sha = self._spend_the_rest(sha, stretch)
        return self._figures(sha)

    def _seeded(self) -> str:
        count = self.size.seed_calls if self.arm.policy else self.budget
        seeds = TrialPrompts(count, self.arm.shares, self.held_out, self.seed).prompts()
        self.store.ledger.prompts.hold_out([prompt.id for prompt in self.held_out.prompts()])
        sha = self.store.publish(None, "import", RevisionChange(prompts=tuple(seeds)))
        return run_seeding(self._context(sha, 0, "seeding"))

    def _spend_the_rest(self, sha: str, index: int) -> str:
        """Buy prompts from the seed distribution for what is left when buying ends: every arm spends the same.

        A text that is known already enters once more, as a prompt of its own with an image of its own, so that a
        policy that buys nothing is left with what its seeds were.
        """
        left = self.budget - self.store.ledger.spend().teacher_calls
        if left <= 0:
            return sha
        known = self.store.state(sha).entries
        seeds = TrialPrompts(left, self.arm.shares, self.held_out, seed_of("rest", self.seed)).prompts()
        rest = [prompt if prompt.id not in known else repetition(prompt, -1) for prompt in seeds]
        sha = self.store.publish(sha, "rest", RevisionChange(prompts=tuple(rest)))
        return run_seeding(self._context(sha, index, "rest bought"))

    def _context(self, sha: str, index: int, round_id: str | None = None) -> Round:
        student, teachers = StudentPart(self.student.draw), {"trial": TrialTeacher()}
        info = RoundInfo(round_id or f"{self.done}-{sha[:12]}", index, self.size.rounds, self.seed, self.done, sha)
        parts = RoundParts(
            store=self.store,
            executor=LocalExecutor(tenants_of(student, teachers, self.judge, self.writer), unit=256),
            student=student,
            teachers=teachers,
            judge=self.judge,
            writer=self.writer,
            policy=self.policy,
            budget=Budget(budget_teacher_calls=self.budget),
            image_size_px=IMAGE_SIZE_PX,
            judge_health=JudgeHealth(self.gold) if self.arm.policy and self.arm.checked else None,
        )
        return Round(parts, info)

    def _figures(self, sha: str) -> dict[str, Any]:
        by_skill = self.student.accuracy(self.held_out.prompts())
        state = self.store.state(sha)
        spend = self.store.ledger.spend()
        bought = Counter(entry.prompt.skill for entry in state.entries.values() if entry.sample)
        return {
            "accuracy": round(sum(by_skill.values()) / len(by_skill), 4),
            "by_skill": {skill: round(share, 3) for skill, share in by_skill.items()},
            "bought": dict(bought),
            "trainable": len(state.in_state("live")) + len(state.in_state("mastered")),
            "calls": spend.teacher_calls,
            "looks": spend.judge_calls,
        }


def run(arm: Arm, seed: int, size: TrialSize) -> dict[str, Any]:
    """Run one arm with one seed in a temporary folder, in memory where there is one; time is processor time.

    Args:
        arm: What is spent, and how.
        seed: Of prompts, held-out combinations, first weights and draws: the same in every arm.
        size: How large.
    """
    begun = time.process_time()
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        trial = Trial(arm, seed, size, Path(folder) / "data")
        try:
            figures = trial.run()
        finally:
            trial.store.close()
    return figures | {"cpu_seconds": round(time.process_time() - begun, 1)}
