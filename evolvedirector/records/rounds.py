"""What a round knows, plans, learns, decides and publishes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from evolvedirector.errors import UserError
from evolvedirector.records.judge_accuracy import JudgeAccuracy
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
    judge: JudgeAccuracy = JudgeAccuracy()  # noqa: RUF009 - frozen
    """How far the judge is right about single images, measured at the start of this round."""
    price_per_image_usd: float = 0.0
    """Price of a teacher's image, the lowest that is known; 0 where none is."""
    price_per_look_usd: float = 0.0
    """Price of a look; 0 for a judge of one's own."""
    writer: str = ""
    """Fingerprint of who writes, for the names of requests that must outlive other settings; empty where unknown."""
    looks_left: int | None = None
    """Looks that the budget leaves as the round begins, the images that may still be bought paid for; None: any."""

    @property
    def judge_error(self) -> float:
        """Estimated share of wrong looks at single images, over both kinds; 0 where it is not known."""
        return self.judge.error

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> RoundInfo:
        """Take a round out of a checkpoint; what is measured as it begins is measured again.

        Args:
            saved: Its fields, as `dataclasses.asdict` spelt them in this version or an earlier one.
        """
        names = {field.name for field in fields(cls)} - {"judge"}
        return cls(**{name: value for name, value in saved.items() if name in names})


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
    bought_from: str | None = None
    """The one teacher that draws what is bought. None: the teacher of best standing first, the others after it."""
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
    most_losses: int = 0
    """Live samples, those bought in this round included, on which the student's loss is measured before the policy is
    asked for the mix, at most; of more, those measured longest ago come first. 0: none."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a round learned about one prompt.

    Raises:
        UserError: An outcome of another kind: each kind has its own, and no other.
    """

    prompt_id: str
    kind: EvidenceKind
    """`screen`: the student's image of a prompt it was never trained on, checked against that prompt. `probe`: the
    same for a trained prompt, drawn with a fresh seed. `faithfulness`: a teacher's image checked. `compare`: student
    against teacher. `score`: an image as the rewards find it."""
    reading: Reading | None = None
    """Outcome of `screen`, `probe` and `faithfulness`; None for the other kinds. Where several drawings of one prompt
    were looked at, that of the first: the others were looked at because of it."""
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
    further_sha256: tuple[str, ...] = ()
    """The student's other drawings of the prompt, one for each look after the first."""

    def __post_init__(self) -> None:
        of_pair, of_rewards = self.kind == "compare", self.kind == "score"
        has = (self.reading is not None, self.verdict is not None, bool(self.scores))
        if has != (not of_pair and not of_rewards, of_pair, of_rewards):
            allowed = "verdict" if of_pair else "scores" if of_rewards else "reading"
            raise UserError(
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
    variant: str = ""
    """For `buy` with an image: the variant of the sample that it becomes, an aspect say; one image may become several.
    Empty: the prompt's only or first sample."""


@dataclass(frozen=True, slots=True)
class TrainingMix:
    """How often training draws from each skill and each sample: what a policy changes instead of deleting."""

    skill_weights: Mapping[str, float]
    """Draw weight per skill, over 0."""
    replay_share: float
    """Share of training draws that repeat mastered prompts; 0 draws them like live ones."""
    sample_weights: Mapping[str, float] | None = None
    """Draw weight by sample key, over 0, relative to the others of its skill; a sample that is not named has weight 1.
    None keeps the weights that there are, empty takes them away."""


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
    sample_weights: Mapping[str, float] | None = None
    """By sample key; takes the place of all weights of the parent. None keeps them."""
