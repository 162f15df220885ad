"""Rows of the ledger as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evolvedirector.records import FileRef, Preference, ReplyStatus

ResultKind = Literal["faithful", "unfaithful", "unchecked", "refusal", "failure"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a teacher, as recorded before it is sent."""

    request_id: str
    prompt_id: str
    lineage_id: str
    teacher: str
    seed: int | None = None
    """Of the image; None where it has none."""
    fingerprint: str = ""
    """Of the teacher; its name alone does not say which weights it had."""


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A teacher's answer as recorded: the image is a blob, not bytes."""

    request_id: str
    prompt_id: str
    teacher: str
    status: ReplyStatus
    image_sha256: str | None
    reason: str
    cost_usd: float
    files: Mapping[str, FileRef] = field(default_factory=dict, hash=False)
    """What came with the image, by role; the contents are blobs."""


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """An image that a teacher drew, and what it takes to draw it again."""

    prompt_id: str
    image_sha256: str
    teacher: str
    seed: int | None
    """None for one of before schema 10."""
    fingerprint: str
    """Of the teacher; empty for one of before schema 10."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent, lost submissions included in the calls."""

    teacher_calls: int = 0
    judge_calls: int = 0
    lost_calls: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a part gave no answer that could be used, and how often."""

    part: str
    """`judge`, `writer`, or `teacher` and its name."""
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Duel:
    """Two teachers' images of one prompt, compared in both orders; the first is the one that stood."""

    prompt_id: str
    first_teacher: str
    second_teacher: str
    first_sha256: str
    second_sha256: str
    preference: Preference
    """`tie` also when the two orders disagree; a tie and an unreadable answer leave the first one standing."""


@dataclass(frozen=True, slots=True)
class TeacherResult:
    """What came of asking one teacher for one prompt in one round."""

    prompt_id: str
    teacher: str
    result: ResultKind
    """What the judge alone read in the image (`faithful`, `unfaithful`), `unchecked` where it read nothing, or why
    there is no image."""
