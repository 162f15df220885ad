"""What is drawn and what is trained on: prompts, samples, and a dataset state as the policy sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from evolvedirector.records.files import IMAGE_ROLE, FileRef, check_role
from evolvedirector.records.judge_accuracy import JudgeAccuracy, Tally
from evolvedirector.records.names import digest, normalise_prompt, prompt_id_of

Origin = Literal["seed", "expansion", "mutation"]
PromptState = Literal["candidate", "live", "mastered", "retired"]

UNLABELLED = "unlabelled"
MAX_PROMPT_CHARACTERS = 2000


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
    """A prompt with its named files and who made them: one training example."""

    key: str
    """Name in the shards, [a-z0-9_-]; see `create`."""
    prompt: Prompt
    image_sha256: str
    """Of the role `image`, the picture itself."""
    teacher: str
    """Name of the teacher, or `given` for an image the user brought."""
    files: Mapping[str, FileRef] = field(default_factory=dict, hash=False)
    """Further files by role (a mask, a source, a reference); empty for a picture alone."""
    variant: str = ""
    """Tells several samples of one prompt apart; empty for the only or first one."""

    @classmethod
    def create(
        cls,
        prompt: Prompt,
        image_sha256: str,
        teacher: str,
        files: Mapping[str, FileRef] | None = None,
        variant: str = "",
    ) -> Sample:
        """Make a sample whose key follows from its prompt, its variant and its files.

        The key is `<prompt id>-<first 12 characters of the image's sha256>`. A variant has the digest of text and
        variant in place of the prompt id, and a sample with further files the digest of all its files in place of the
        image's sha256: equal content, equal key, and a new mask is a new sample.

        Args:
            prompt: What is drawn.
            image_sha256: Of the picture.
            teacher: Who made it.
            files: Further files by role; their content stays behind. None: the picture is all.
            variant: Any word of the caller's. A sample replaces the one of the same prompt and variant; another variant
                stands beside it.
        """
        files = {role: replace(file, content=None) for role, file in (files or {}).items()}
        for role in files:
            check_role(role)
        owner = digest("variant", normalise_prompt(prompt.text), variant) if variant else prompt.id
        named = [part for role in sorted(files) for part in (role, files[role].sha256)]
        content = digest("files", image_sha256, *named, length=12) if files else image_sha256[:12]
        return cls(f"{owner}-{content}", prompt, image_sha256, teacher, files, variant)

    @property
    def roles(self) -> tuple[str, ...]:
        """Name its files: `image`, then the further roles in alphabetical order."""
        return (IMAGE_ROLE, *sorted(self.files))


@dataclass(frozen=True, slots=True)
class PromptEntry:
    """One prompt of a dataset state, with its place in the life of a prompt."""

    prompt: Prompt
    state: PromptState
    sample: Sample | None = None
    """The first sample it is trained on; None for a prompt that was not bought yet."""
    variants: tuple[Sample, ...] = ()
    """Further samples of the prompt, in the order in which they entered."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """List every sample of the prompt, the first one first."""
        return () if self.sample is None else (self.sample, *self.variants)


@dataclass(frozen=True, slots=True)
class RoundHistory:
    """What an earlier round of this revision's ancestry saw of prompts the student was never trained on."""

    round_id: str
    judge: JudgeAccuracy
    """How far the judge was right in that round."""
    skills: Mapping[str, Tally]
    """Screened prompts by skill."""
    lineages: Mapping[str, Tally]
    """Screened prompts by lineage id."""
    failed: frozenset[str]
    """Ids of the screened prompts that the student failed."""
    operations: Mapping[tuple[str, Origin], Tally] = field(default_factory=dict)
    """Screened prompts by skill and by the operation that wrote them."""

    @property
    def judge_error(self) -> float:
        """Estimated share of wrong looks in that round, over both kinds of images; 0 where it is not known."""
        return self.judge.error


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
    sample_weights: Mapping[str, float] = field(default_factory=dict)
    """Draw weight by sample key, relative to the others of its skill; a sample without one has weight 1."""
    history: tuple[RoundHistory, ...] = ()
    """Finished rounds on the way to this revision, oldest first; a fork sees its own past only."""
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By sample key: the student's losses on it, as rounds measured them, oldest first; given to `Policy.mix` where the
    plan asks for them, with those of samples that this round bought."""

    def in_state(self, state: PromptState) -> list[PromptEntry]:
        """List the entries in one state, in the order in which they entered."""
        return [entry for entry in self.entries.values() if entry.state == state]
