"""The words of the system as frozen records; every other part passes these around.

Images cross every seam as encoded bytes (PNG unless the bytes say otherwise): they are content-addressed,
cacheable and independent of any array library. This module imports neither torch nor Lightning.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Origin = Literal["seed", "expansion", "mutation"]
PromptState = Literal["candidate", "live", "mastered", "retired"]
Verdict = Literal["student", "teacher", "tie", "invalid"]
ReplyStatus = Literal["image", "refusal", "failure"]
DecisionKind = Literal["buy", "expand", "mutate", "retire", "keep", "master", "revive"]

UNLABELLED = "unlabelled"
MAX_PROMPT_CHARACTERS = 2000

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SPACES = re.compile(r"\s+")


def normalise_prompt(text: str) -> str:
    """Return the form under which two prompts count as the same (case, white space, articles, final stop ignored)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SPACES.sub(" ", _ARTICLES.sub(" ", folded)).strip(" .\t\n")


def digest(*parts: str | bytes | int, length: int = 16) -> str:
    """Return `length` hex characters naming the given parts; equal parts give equal names on every machine."""
    hasher = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "little"))  # length prefix: ("ab", "c") and ("a", "bc") differ
        hasher.update(data)
    return hasher.hexdigest()[:length]


def seed_of(*parts: str | bytes | int) -> int:
    """Return a 63-bit seed named by the given parts: same parts, same draw, whatever happened before."""
    return int(digest(*parts, length=16), 16) >> 1


def prompt_id_of(text: str) -> str:
    """Return the id of a prompt: the digest of its normalised text, so that duplicates share one id."""
    return digest("prompt", normalise_prompt(text))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to draw, with where it came from. `lineage_id` is the id of its first ancestor (its own for a seed)."""

    id: str
    text: str
    origin: Origin = "seed"
    skill: str = UNLABELLED
    parent_id: str | None = None
    lineage_id: str = ""
    width_px: int | None = None
    """None: the size of the student."""
    height_px: int | None = None

    @classmethod
    def create(
        cls, text: str, origin: Origin = "seed", skill: str = UNLABELLED, parent: Prompt | None = None
    ) -> Prompt:
        """Make a prompt whose id follows from its text and whose lineage follows from its parent."""
        own_id = prompt_id_of(text)
        return cls(
            id=own_id,
            text=text,
            origin=origin,
            skill=skill,
            parent_id=parent.id if parent else None,
            lineage_id=parent.lineage_id if parent else own_id,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt with its chosen image and who made it: one training example."""

    key: str
    """Name in the shards, [a-z0-9_-]: `<prompt id>-<first 12 characters of the image's sha256>`."""
    prompt: Prompt
    image_sha256: str
    teacher: str
    """Name of the teacher, or `given` for an image the user brought."""

    @classmethod
    def create(cls, prompt: Prompt, image_sha256: str, teacher: str) -> Sample:
        """Make a sample whose key follows from its prompt and image."""
        return cls(f"{prompt.id}-{image_sha256[:12]}", prompt, image_sha256, teacher)


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """Ask a teacher or the student for one image."""

    request_id: str
    prompt: str
    seed: int
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class ImageReply:
    """Answer one `ImageRequest`: an encoded image, or a refusal or failure with its reason (values, not exceptions)."""

    request_id: str
    status: ReplyStatus
    image: bytes | None = None
    reason: str = ""
    cost_usd: float = 0.0
    sent: bool = True
    """False for a failure of which the teacher says that it costs nothing and was never drawn (no key, no credit): it
    is not counted as a call, so that a closed account does not use up the budget."""


@dataclass(frozen=True, slots=True)
class ImageAndPrompt:
    """Ask a judge whether `image` (encoded) shows `prompt`."""

    item_id: str
    image: bytes
    prompt: str


@dataclass(frozen=True, slots=True)
class OrderedPair:
    """Ask a judge which of two encoded images fits `prompt` better, in this order; it is not told whose is whose."""

    item_id: str
    first: bytes
    second: bytes
    prompt: str


@dataclass(frozen=True, slots=True)
class Look:
    """One reading of a judge. For a pair: probability of the first; for one image: that it shows the prompt."""

    item_id: str
    probability: float
    covered_mass: float = 1.0
    """Probability mass on readable answers; a low mass makes the verdict invalid."""
    reason: str = ""
    rung: str = ""
    """How the answer of a model was read (`probability`, `logprobs`, `choice`, `schema`, `text`); empty: directly."""
    sent: bool = True
    """False where the question never reached the model (no key, no connection): it is neither counted nor final."""


@dataclass(frozen=True, slots=True)
class AtomAnswer:
    """The answer to one yes-or-no question about an image."""

    kind: str
    """What is asked about: `object`, `colour`, `count`, `relation`; other judges may have others."""
    question: str
    probability: float
    """That the answer is yes."""
    covered_mass: float = 1.0


@dataclass(frozen=True, slots=True)
class FaithfulnessLook:
    """One reading of an image question by question: which part of the prompt is missing, not only whether one is."""

    item_id: str
    answers: tuple[AtomAnswer, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GoldItem:
    """An image with a prompt and the known answer to `does it show the prompt?`: what a judge is measured on."""

    item_id: str
    image: bytes
    prompt: str
    shows: bool


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """Ask a writer for `count` new prompt texts."""

    request_id: str
    operation: Literal["seed", "expansion", "mutation"]
    parent: str | None
    """Text of the parent prompt; None asks for something unrelated to any."""
    skill: str | None
    """Skill the texts should exercise; None leaves it to the writer."""
    count: int
    seed: int


@dataclass(frozen=True, slots=True)
class WriteReply:
    """Answer one `WriteRequest`: texts with their skills, or none and the reason."""

    request_id: str
    texts: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    """One per text; empty: each text has the skill asked for."""
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a round learned about one prompt."""

    prompt_id: str
    kind: Literal["screen", "probe", "compare", "faithfulness"]
    """`screen`: the student's image of a prompt it was never trained on, checked against that prompt. `probe`: the
    same for a trained prompt, drawn with a fresh seed. `faithfulness`: a teacher's image checked. `compare`: student
    against teacher."""
    verdict: Verdict
    looks: tuple[Look, ...] = ()
    student_sha256: str | None = None
    teacher_sha256: str | None = None
    skill: str | None = None
    """Skill of the prompt when it was looked at; the same text may be written again under another parent."""
    lineage_id: str | None = None
    """Lineage of the prompt when it was looked at."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing the policy wants done with one prompt, and why (shown in the ledger and the report)."""

    kind: DecisionKind
    prompt_id: str
    count: int = 1
    """How many children to write, for `expand` and `mutate`."""
    reason: str = ""


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
class PromptEntry:
    """One prompt of a dataset state, with its place in the life of a prompt."""

    prompt: Prompt
    state: PromptState
    sample: Sample | None = None
    """The image it is trained on; None for a prompt that was not bought yet."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many prompts were looked at with a readable answer, and how many of them the student failed."""

    looked: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class RoundHistory:
    """What an earlier round of this revision's ancestry saw of prompts the student was never trained on."""

    round_id: str
    judge_error: float
    """Estimated share of wrong looks in that round."""
    skills: Mapping[str, Tally]
    """Screened prompts by skill."""
    lineages: Mapping[str, Tally]
    """Screened prompts by lineage id."""
    failed: frozenset[str]
    """Ids of the screened prompts that the student failed."""


@dataclass(frozen=True, slots=True)
class DatasetState:
    """One revision as the policy sees it: every prompt it ever held, the draw weights of the skills, and the past."""

    revision_sha: str
    entries: Mapping[str, PromptEntry]
    """By prompt id, in the order in which they entered."""
    skill_weights: Mapping[str, float] = field(default_factory=dict)
    """Draw weight per skill; empty: every live sample equally often."""
    replay_share: float = 0.0
    """Share of training draws that repeat mastered prompts; 0 draws them like live ones."""
    history: tuple[RoundHistory, ...] = ()
    """Finished rounds on the way to this revision, oldest first; a fork sees its own past only."""

    def in_state(self, state: PromptState) -> list[PromptEntry]:
        """List the entries in one state, in the order in which they entered."""
        return [entry for entry in self.entries.values() if entry.state == state]


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
