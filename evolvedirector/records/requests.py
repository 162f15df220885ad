"""What teachers and writers are asked, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evolvedirector.records.files import FileRef

ReplyStatus = Literal["image", "refusal", "failure"]


@dataclass(frozen=True, slots=True)
class LossRequest:
    """Ask the student for its training loss on one sample, at noise that is the same whenever it is asked."""

    request_id: str
    image: bytes
    """Encoded, as it was bought."""
    prompt: str
    noise_seeds: tuple[int, ...]
    """One for each noise level, from little noise to much; the student's objective says what the levels are."""
    files: Mapping[str, FileRef] = field(default_factory=dict, hash=False)
    """Further files of the sample by role, each with its content."""


@dataclass(frozen=True, slots=True)
class LossReply:
    """Answer one `LossRequest`: the mean over its noise levels."""

    request_id: str
    loss: float


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """Ask a teacher or the student for one image."""

    request_id: str
    prompt: str
    seed: int
    width_px: int
    height_px: int
    attempt: int = 0
    """Tries before this one that came to nothing for good."""
    files: Mapping[str, FileRef] = field(default_factory=dict, hash=False)
    """Files to draw from, by role, each with its content: a reference, a mask, a source, a control image."""

    @property
    def idempotency_key(self) -> str:
        """Name the work to a service: the same for a try that is taken up again after a kill, new for a new try."""
        return f"{self.request_id}-{self.attempt}" if self.attempt else self.request_id


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
    files: Mapping[str, FileRef] = field(default_factory=dict, hash=False)
    """What comes with the image, by role, each with its content; the role `image` stays in `image`."""
    closed: bool = False
    """True for a failure that the service would repeat under the same idempotency key (a job that failed, an image that
    cannot be used): the next try is new work. False where it may still deliver what was asked for."""


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
    rules: tuple[str, ...] = ()
    """What every text must keep to, for a writer that is told in words; with any, it chooses no length itself."""
    examples: tuple[str, ...] = ()
    """Texts to show to a writer that learns from examples; empty leaves the choice to it."""
    known: tuple[str, ...] = ()
    """Texts that are no news. A writer that keeps what it wrote passes them over; the round refuses them anyway."""


@dataclass(frozen=True, slots=True)
class WriteReply:
    """Answer one `WriteRequest`: texts with their skills, or none and the reason."""

    request_id: str
    texts: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    """One per text; empty: each text has the skill asked for."""
    refusal: str = ""
    answered: bool = True
    """False where there are no texts because the model could not be asked (an outage): not final, asked again."""
