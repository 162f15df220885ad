"""What judges are asked, and what they see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evolvedirector.records.files import FileRef

Verdict = Literal["student", "teacher", "tie", "invalid"]

MIN_COVERED_MASS = 0.5
"""Below this share of probability on readable answers the model wanted to say something else: invalid."""


@dataclass(frozen=True, slots=True)
class ImageAndPrompt:
    """Ask a judge whether `image` (encoded) shows `prompt`."""

    item_id: str
    image: bytes
    prompt: str
    files: Mapping[str, FileRef] = field(default_factory=dict, hash=False)
    """Further files by role, each with its content: a source, a mask, a reference."""


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
    cut_off: bool = False
    """True where an outage kept back the answer, or a part of it, to what was sent: it is counted, but not final."""


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
    sent: bool = True
    """False where no question reached the model."""
    cut_off: bool = False
    """True where an outage kept back answers to what was sent."""


@dataclass(frozen=True, slots=True)
class Score:
    """How a reward finds one image; scores of one reward are comparable with each other only."""

    item_id: str
    value: float
    """Higher is better; nan where the image could not be scored."""
    reason: str = ""
    sent: bool = True
    """False where the image never reached the reward's model: neither counted nor final."""


@dataclass(frozen=True, slots=True)
class GoldItem:
    """An image with a prompt and the known answer to `does it show the prompt?`: what a judge is measured on."""

    item_id: str
    image: bytes
    prompt: str
    shows: bool


def verdict_of_pair(
    student_first: Look | None,
    teacher_first: Look | None,
    tie_margin: float = 0.0,
    min_covered_mass: float = MIN_COVERED_MASS,
) -> Verdict:
    """Judge student against teacher from one look or from one in each order.

    With both orders the margin is the mean preference for the student minus 1/2; orders that disagree are a tie
    (a position-biased judge prefers a place, not an image).

    Args:
        student_first: The look in which the student's image came first; None if not taken.
        teacher_first: The look in which the teacher's image came first; None if not taken.
        tie_margin: Distance from 1/2 up to which a preference is a tie.
        min_covered_mass: Probability mass below which a look cannot be read.
    """
    prefers_student = []
    for look, student_is_first in ((student_first, True), (teacher_first, False)):
        if look is not None:
            if not (look.covered_mass >= min_covered_mass and 0.0 <= look.probability <= 1.0):
                return "invalid"
            prefers_student.append(look.probability if student_is_first else 1.0 - look.probability)
    if not prefers_student:
        return "invalid"
    margins = [preference - 0.5 for preference in prefers_student]
    if min(margins) < 0 < max(margins):
        return "tie"
    margin = sum(margins) / len(margins)
    if abs(margin) <= tie_margin:
        return "tie"
    return "student" if margin > 0 else "teacher"


def verdict_of_check(look: Look | None, threshold: float = 0.5, min_covered_mass: float = MIN_COVERED_MASS) -> Verdict:
    """Judge one image against its prompt: `student` if the image shows it, `teacher` if a teacher is needed."""
    if look is None or not (look.covered_mass >= min_covered_mass and 0.0 <= look.probability <= 1.0):
        return "invalid"
    return "student" if look.probability >= threshold else "teacher"
