"""Rivals of the gap benchmark: ways to choose prompts that do not ask what the student fails, or ask otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import pvariance
from typing import Any

from benchmarks.arms import allowance_of_round
from evolvedirector.judges.judge import Judge
from evolvedirector.policies.policy import RunSize
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    ImageAndPrompt,
    Prompt,
    RoundInfo,
    RoundPlan,
    Score,
    TrainingMix,
    WriteRequest,
    digest,
    seed_of,
)
from evolvedirector.records.looks import reading_of

CANDIDATES_PER_CALL = 4
"""As many as `ScreeningPolicy` writes."""
LEAST_PER_SKILL = 10


class ReaderReward:
    """Score an image 1 where a judge says that it shows its prompt, else 0.

    Args:
        judge: Who looks.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    @property
    def fingerprint(self) -> str:
        """Name the judge."""
        return f"reader-reward/{self.judge.fingerprint}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per image."""
        for look in self.judge.check(items):
            yield Score(look.item_id, float(reading_of(look) == "shows"))

    def close(self) -> Any:
        """Do nothing: the judge is another's."""


class OraclePolicy:
    """Buy what needs a hidden word, of which only the benchmark knows.

    Args:
        hides: Says whether a prompt needs one.
        skills: Among which candidates are spread.
    """

    checks_seeds = False

    def __init__(self, hides: Callable[[str], bool], skills: Sequence[str]) -> None:
        self.hides = hides
        self.skills = tuple(skills)
        self.fingerprint = f"oracle-1/{digest(*self.skills)}"

    def most_looks(self, size: RunSize) -> int:
        """Return 0: nothing is looked at."""
        return 0

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Ask for many texts of every skill: few of them are needed."""
        allowance = allowance_of_round(round)
        if allowance == 0:
            return RoundPlan()
        return RoundPlan(
            write=_requests(self.skills, 120, round), screen=False, budget_teacher_calls=allowance
        )  # 120 a skill: at p = 1/50 some fifteen of them are needed

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Buy hidden ones, in seeded order."""
        hidden = [prompt for prompt in _candidates(state) if self.hides(prompt.text)]
        return _bought(_shuffled(hidden, round), allowance, round, "hidden")

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Leave the draws as they are."""
        return None


class RewardVariancePolicy:
    """Buy the candidates whose drawings differ most in reward: the rule of CGPO (arXiv 2605.17807), as for training.

    Each candidate is drawn several times and scored; a prompt of which some drawings succeed is thought to teach most,
    one that always fails as little as one that never does.

    Args:
        skills: Among which candidates are spread.
        drawings: Images of each candidate.
    """

    checks_seeds = False

    def __init__(self, skills: Sequence[str], drawings: int = 4) -> None:
        self.skills = tuple(skills)
        self.drawings = drawings
        self.fingerprint = f"reward-variance-1/{digest(*self.skills, drawings)}"

    def most_looks(self, size: RunSize) -> int:
        """Return 0: what is asked are rewards, not looks of the judge."""
        return 0

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Ask for as many texts as `ScreeningPolicy`, and score several drawings of each."""
        allowance = allowance_of_round(round)
        if allowance == 0:
            return RoundPlan()
        each = max(LEAST_PER_SKILL, math.ceil(CANDIDATES_PER_CALL * allowance / len(self.skills)))
        return RoundPlan(
            write=_requests(self.skills, each, round),
            screen=False,
            score_candidates=True,
            images_per_prompt=self.drawings,
            budget_teacher_calls=allowance,
        )

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Buy by variance, the highest first; equal ones in seeded order."""
        rewards: dict[str, list[float]] = {}
        for item in evidence:
            if item.kind == "score":
                rewards.setdefault(item.prompt_id, []).extend(item.scores.values())
        variances = {key: pvariance(values) for key, values in rewards.items()}
        prompts = _shuffled([p for p in _candidates(state) if p.id in variances], round)
        return _bought(sorted(prompts, key=lambda p: -variances[p.id]), allowance, round, "reward variance")

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Leave the draws as they are."""
        return None


class FailureFeedbackPolicy:
    """Write more of what the *teacher* failed, and never look at the student: the loop of DataEvolver (2606.31537).

    Half of the texts are children of prompts whose bought image was refused, the rest is spread over the skills. With
    a teacher that errs in nothing, no feedback comes: it then buys what the writer spreads.

    Args:
        skills: Among which texts are spread.
    """

    checks_seeds = True

    def __init__(self, skills: Sequence[str]) -> None:
        self.skills = tuple(skills)
        self.fingerprint = f"failure-feedback-1/{digest(*self.skills)}"

    def most_looks(self, size: RunSize) -> int | None:
        """Return one look for each image bought."""
        return size.budget_teacher_calls

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        """Ask for children of refused prompts, and for texts of every skill."""
        allowance = allowance_of_round(round)
        if allowance == 0:
            return RoundPlan()
        refused = [entry.prompt for entry in state.in_state("retired")][-allowance:]
        children = tuple(
            WriteRequest(
                digest("feedback", round.round_id, parent.id),
                "expansion",
                parent.text,
                parent.skill,
                2,
                seed_of("feedback", round.seed, round.round_id, parent.id),
            )
            for parent in refused
        )
        each = math.ceil(3 * allowance / len(self.skills))
        return RoundPlan(
            write=(*children, *_requests(self.skills, each, round)),
            screen=False,
            check_teacher=True,
            budget_teacher_calls=allowance,
        )

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        """Buy children of refused prompts up to a half, then the rest."""
        prompts = _shuffled(_candidates(state), round)
        children = [prompt for prompt in prompts if prompt.parent_id]
        half = children[: allowance_of_round(round) // 2]
        rest = [prompt for prompt in prompts if prompt not in half]
        return _bought([*half, *rest], allowance, round, "feedback on the teacher")

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        """Leave the draws as they are."""
        return None


def _requests(skills: Sequence[str], count: int, round: RoundInfo) -> tuple[WriteRequest, ...]:
    return tuple(
        WriteRequest(
            digest("gap", round.round_id, skill),
            "mutation",
            None,
            skill,
            count,
            seed_of("gap", round.seed, round.round_id, skill),
        )
        for skill in skills
    )


def _candidates(state: DatasetState) -> list[Prompt]:
    return [entry.prompt for entry in state.in_state("candidate")]


def _shuffled(prompts: Sequence[Prompt], round: RoundInfo) -> list[Prompt]:
    return sorted(prompts, key=lambda prompt: seed_of("order", round.seed, round.round_id, prompt.id))


def _bought(prompts: Sequence[Prompt], allowance: Allowance, round: RoundInfo, reason: str) -> list[Decision]:
    count = allowance_of_round(round)
    if allowance.teacher_calls is not None:
        count = min(count, allowance.teacher_calls)
    return [Decision("buy", prompt.id, 1, reason) for prompt in prompts[:count]]
