"""What a round knows, plans, learns, decides and publishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evolvedirector.records.looks import Look, Reading, Verdict
from evolvedirector.records.prompts import Prompt, PromptState, Sample
from evolvedirector.records.requests import WriteRequest

EvidenceKind = Literal["screen", "probe", "compare", "faithfulness", "score"]
DecisionKind = Literal["buy", "expand", "mutate", "retire", "keep", "master", "revive"]


@dataclass(frozen=True, slots=True)
class RoundInfo:
    """Which round this is. `round_id` names (global step of its checkpoint, revision it started from)."""

    round_id: str
    index: int
    rounds: int | None
    """Rounds planned in all; None when the end of training is not known."""
    seed: int
    global_step: int
    revision_sha: str
    budget_teacher_calls: int | None = None
    """Teacher calls of the whole run; None is unlimited."""
    teacher_calls: int = 0
    """Teacher calls spent before this round, seeds included."""
    seed_calls: int = 0
    """The part of them that bought images for the seeds."""
    judge_error: float = 0.0
    """Estimated share of wrong looks at single images, 0 to 0.5, measured at the start of this round."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may still be spent in this round; None is unlimited."""

    teacher_calls: int | None
    judge_calls: int | None
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What a round does before the policy decides; empty parts are skipped, so all orders of steps share it."""

    write: tuple[WriteRequest, ...] = ()
    """Candidates to write and screen (screening order)."""
    screen: bool = True
    """Off: candidates are bought as they are written, neither drawn by the student nor looked at."""
    compare: tuple[str, ...] = ()
    """Ids of live prompts whose student image is compared with their teacher image (published order)."""
    both_orders: bool = False
    """Look at each pair in both orders; otherwise once, in a seeded random order."""
    score: tuple[str, ...] = ()
    """Ids of prompts of the state to draw anew and score by every reward."""
    score_candidates: bool = False
    """Draw and score the written candidates too."""
    drawn_by: str | None = None
    """Teacher who draws what is scored, such as a self-teacher: its images are bought, and may be trained on. None:
    the student, whose images are measured only."""
    images_per_prompt: int = 1
    """Images drawn of each scored prompt, each with a seed of its own."""
    probe: tuple[str, ...] = ()
    """Ids of trained prompts to render with a fresh seed and check (forgetting, near-empty skills)."""
    check_teacher: bool = False
    """Check bought images; an unfaithful one goes to the next teacher once, then its prompt is retired."""
    compare_bought: bool = False
    """After buying, compare the candidate's student image with the bought one."""
    budget_teacher_calls: int | None = None
    """Teacher calls that this round may spend at most; None leaves it to the budget."""
    test_all_share: float = 0.0
    """Share of the bought prompts that every teacher draws, so that the choice among teachers is re-tested."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a round learned about one prompt.

    Raises:
        ValueError: An outcome of another kind: each kind has its own, and no other.
    """

    prompt_id: str
    kind: EvidenceKind
    """`screen`: the student's image of a prompt it was never trained on, checked against that prompt. `probe`: the
    same for a trained prompt, drawn with a fresh seed. `faithfulness`: a teacher's image checked. `compare`: student
    against teacher. `score`: an image as the rewards find it."""
    reading: Reading | None = None
    """Outcome of `screen`, `probe` and `faithfulness`; None for the other kinds."""
    verdict: Verdict | None = None
    """Outcome of `compare`; None for the other kinds."""
    looks: tuple[Look, ...] = ()
    student_sha256: str | None = None
    teacher_sha256: str | None = None
    skill: str | None = None
    """Skill of the prompt when it was looked at; the same text may be written again under another parent."""
    lineage_id: str | None = None
    """Lineage of the prompt when it was looked at."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Outcome of `score`: by the reward's name; empty for the other kinds."""

    def __post_init__(self) -> None:
        of_pair, of_rewards = self.kind == "compare", self.kind == "score"
        has = (self.reading is not None, self.verdict is not None, bool(self.scores))
        if has != (not of_pair and not of_rewards, of_pair, of_rewards):
            allowed = "verdict" if of_pair else "scores" if of_rewards else "reading"
            raise ValueError(
                f"Evidence of kind {self.kind!r} has reading {self.reading!r}, verdict {self.verdict!r} and scores "
                f"{dict(self.scores)!r}. Allowed for this kind is `{allowed}` alone. Write `Evidence(prompt_id, "
                f"{self.kind!r}, {allowed}=...)`."
            )


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing the policy wants done with one prompt, and why (shown in the ledger and the report)."""

    kind: DecisionKind
    prompt_id: str
    count: int = 1
    """How many children to write, for `expand` and `mutate`."""
    reason: str = ""
    image_sha256: str | None = None
    """For `buy`: the scored image to train on. None: teachers draw one."""


@dataclass(frozen=True, slots=True)
class TrainingMix:
    """How often training draws from each skill: what a policy changes instead of deleting."""

    skill_weights: Mapping[str, float]
    """Draw weight per skill, over 0."""
    replay_share: float
    """Share of training draws that repeat mastered prompts; 0 draws them like live ones."""


@dataclass(frozen=True, slots=True)
class RevisionChange:
    """What a round publishes: a delta on its parent revision."""

    samples: tuple[Sample, ...] = ()
    """New or replaced samples; their prompts become live."""
    prompts: tuple[Prompt, ...] = ()
    """Prompts that enter without an image (state `candidate`)."""
    states: Mapping[str, PromptState] = field(default_factory=dict)
    """Prompt id to new state; `retired` is a tombstone."""
    skill_weights: Mapping[str, float] | None = None
    """None keeps the parent's weights."""
    replay_share: float | None = None
    """None keeps the parent's share."""
