"""What passes between the stages of the pair builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from evolvedirector.records import FileRef, ImageReply
from evolvedirector.store.codec import file_to_json

ChangeKind = Literal["place", "tint", "texture", "style", "view"]
"""What a pair changes of its subject: `place` is position and background, `tint` its colour, `view` its pose."""
KINDS: tuple[ChangeKind, ...] = get_args(ChangeKind)
StageName = Literal["subjects", "prompt", "draft", "refine", "view", "mask", "filter", "look"]
STAGES: tuple[StageName, ...] = get_args(StageName)
"""In their order; what they made is recorded after the last. To `look` is to score what a student drew of a subject."""
PairUse = Literal["generation", "editing"]
"""A pair for editing carries a mask and a source, one for generation carries neither."""
ReplyStatus = Literal["done", "refused", "failure"]

REFERENCE, REFERENCE_MASK, DRAFT, DRAFT_MASK, REFINED, IMAGE, MASK, SOURCE = (
    "reference",
    "reference_mask",
    "draft",
    "draft_mask",
    "refined",
    "image",
    "mask",
    "source",
)
"""Roles of the files that stages read and make."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing that pairs are made of, as its source lists it: without its picture."""

    name: str
    """Unique in its source, and the same whenever it is listed."""
    category: str
    """What a text calls it: `fox`."""
    group: str = ""
    """Subjects of one group are held out together: all pictures of one concept, say."""
    look: str = ""
    """Its art set, where it has one."""


@dataclass(frozen=True, slots=True)
class PairRequest:
    """Ask a stage for one thing: all that is known of the pair so far, and the files made so far by role."""

    request_id: str
    subject: Subject
    seed: int
    width_px: int
    height_px: int
    kind: ChangeKind | None = None
    """None where the subject alone is asked about."""
    prompt: str = ""
    change: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The words of the change by what they are about: `{"tint": "red"}`."""
    files: Mapping[str, FileRef] = field(default_factory=dict, hash=False)
    """Each with its content: `reference` and `reference_mask`, then `draft`, `image`, `mask` as they are made."""


@dataclass(frozen=True, slots=True)
class PairReply:
    """Answer one `PairRequest`. A refusal is final; after a failure (an outage) the stage is asked again."""

    request_id: str
    status: ReplyStatus = "done"
    files: Mapping[str, FileRef] = field(default_factory=dict, hash=False)
    """What was made, by role, each with its content."""
    words: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What was written: `prompt`, and the words of the change; or a note, such as `unchanged`."""
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    """What was measured, 0 to 1 or a cosine, by name: `identity`, `text`, `change`."""
    reason: str = ""
    """Of a refusal or failure, one sentence."""
    cost_usd: float = 0.0
    sent: bool = True
    """False for a failure that was never sent: it costs nothing and counts as no call."""


def refused(request: PairRequest, reason: str) -> PairReply:
    """Answer with a refusal."""
    return PairReply(request.request_id, "refused", reason=reason)


def unchanged(request: PairRequest) -> PairReply:
    """Answer with the draft as it came, and say so."""
    return PairReply(request.request_id, files={IMAGE: request.files[DRAFT]}, words={"note": "unchanged"})


def failed(request: PairRequest, reason: str, sent: bool = True) -> PairReply:
    """Answer with a failure: the stage is asked again when the build is repeated."""
    return PairReply(request.request_id, "failure", reason=reason, sent=sent)


def without_picture(request_id: str, reply: ImageReply) -> PairReply:
    """Answer as whoever was to draw a picture did: a refusal stays one, and a failure is asked again.

    Args:
        request_id: Of the pair's request.
        reply: Without an image.
    """
    status: ReplyStatus = "refused" if reply.status == "refusal" else "failure"
    return PairReply(request_id, status, reason=reply.reason, cost_usd=reply.cost_usd, sent=reply.sent)


def reply_to_json(reply: PairReply) -> dict[str, Any]:
    """Write what a reply says; its files by name."""
    return {
        "files": {role: file_to_json(file) for role, file in reply.files.items()},
        "words": dict(reply.words),
        "scores": dict(reply.scores),
        "reason": reply.reason,
    }


def reply_from_json(key: str, status: ReplyStatus, body: Mapping[str, Any]) -> PairReply:
    """Read what `reply_to_json` wrote; its cost is booked already."""
    files = {role: FileRef(**about) for role, about in body["files"].items()}
    return PairReply(key, status, files, body["words"], body["scores"], body["reason"])
