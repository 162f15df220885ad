"""What names a round: the step and revision it starts from, and everybody who decides in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from evolvedirector.evolution.background_rounds import BackgroundRounds
from evolvedirector.evolution.budget import Budget
from evolvedirector.judges.health.gold import check_gold
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.judges.judge import Judge
from evolvedirector.policies.policy import Policy
from evolvedirector.records import digest
from evolvedirector.records.part import Part
from evolvedirector.rewards.reward import Reward
from evolvedirector.teachers.teacher import Teacher
from evolvedirector.writers.prompt_writer import PromptWriter

if TYPE_CHECKING:
    from evolvedirector.evolution.holds_rounds import HoldsRounds
    from evolvedirector.models.embedder import Embedder


@dataclass(frozen=True, slots=True)
class RoundSettings:
    """Name who takes part in the rounds of a dataset.

    Args:
        teachers: Image sources by name, in order of preference.
        judge: The training judge.
        writer: Writes new prompts.
        policy: Decides.
        budget: Limits of spending.
        judge_health: How the judge is checked. None: it is trusted.
        tie_margin: Distance from 1/2 up to which a preference is a tie.
        seed: Root of every draw of evolution.
        rewards: Score images, by name.
        embedder: Embeds what rounds publish. None: nobody does.
        background: How far rounds lag behind the training. None: training waits for them.
        pairs: Holds rounds over subject pairs. None: rounds are over prompts.
    """

    teachers: Mapping[str, Teacher]
    judge: Judge
    writer: PromptWriter
    policy: Policy
    budget: Budget
    judge_health: JudgeHealth | None = None
    tie_margin: float = 0.0
    seed: int = 0
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    embedder: Embedder | None = None
    background: BackgroundRounds | None = None
    pairs: HoldsRounds | None = None

    def selectors(self) -> list[Part]:
        """List those whose opinion chooses what is trained on."""
        return [self.judge, *(self.pairs.selectors() if self.pairs else ())]

    def deciders(self, gold: str) -> list[str]:
        """List everything that decides a round, as text.

        Args:
            gold: Name of the gold set.
        """
        teachers = [f"{name} {teacher.fingerprint}" for name, teacher in self.teachers.items()]
        rewards = [f"reward {name} {reward.fingerprint}" for name, reward in self.rewards.items()]
        who = [*teachers, *rewards, self.judge.fingerprint, self.writer.fingerprint, self.policy.fingerprint]
        floors = [] if self.judge_health is None else [repr(replace(self.judge_health, gold=None)), gold]
        embedder = [] if self.embedder is None else [f"embedder {self.embedder.fingerprint}"]
        # a round that training waits for decides as one between epochs does, and finds what that one bought
        lag = [repr(self.background)] if self.background is not None and self.background.epochs else []
        pairs = [] if self.pairs is None else [f"pairs {self.pairs.fingerprint}"]
        return [*who, repr(self.budget), *floors, f"tie margin {self.tie_margin}", *embedder, *lag, *pairs]


def round_id_of(settings: RoundSettings, gold: str, student: Sequence[str], global_step: int, revision_sha: str) -> str:
    """Name a round by its step and revision, and by who takes part in it.

    The same run repeats its round under the same name; with another judge, teacher, policy, budget, model or learning
    rate an older checkpoint, or a new run on the same revision, forks instead of taking over what others decided about
    another student.

    Args:
        settings: Who takes part.
        gold: Name of the gold set, as `gold_name` makes it.
        student: What tells this student in training from others: its class, its size, its optimizers, its data.
        global_step: Optimizer steps done.
        revision_sha: What the round starts from.
    """
    # 2: until then policies and writers stood here by their attributes
    return digest("round-2", settings.seed, global_step, revision_sha, *student, *settings.deciders(gold))


def gold_name(health: JudgeHealth | None) -> str:
    """Name the gold set of a judge's check by its content; empty where there is none.

    Args:
        health: How the judge is checked; None: it is trusted.

    Raises:
        ValueError: It is no gold set, or one that a judge of one answer would pass.
    """
    if health is None or health.gold is None:
        return ""
    items = health.gold.items()
    check_gold(items)
    return digest(*[part for item in items for part in (item.image, item.prompt, str(item.shows))])
