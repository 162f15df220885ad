"""What judges are asked, and what they see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from evolvedirector.records.files import FileRef

Reading = Literal["shows", "lacks", "unreadable"]
"""Whether one image shows its prompt."""
Preference = Literal["first", "second", "tie", "unreadable"]
"""Which image of an ordered pair fits the prompt better."""
Owner = Literal["student", "teacher"]
Verdict = Literal["student", "teacher", "tie", "invalid"]
"""Whose image fits the prompt better; only a pair of which one image is the student's and one a teacher's has it."""

MIN_COVERED_MASS = 0.5
"""Below this share of probability on readable answers the model wanted to say something else: unreadable."""


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
    """Probability mass on readable answers; a look of low mass is unreadable."""
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


def is_readable(look: Look | None, min_covered_mass: float = MIN_COVERED_MASS) -> TypeGuard[Look]:
    """Say whether a look says anything: it was taken, has a probability, and enough of it lies on the answers."""
    return look is not None and look.covered_mass >= min_covered_mass and 0.0 <= look.probability <= 1.0


def reading_of(look: Look | None, threshold: float = 0.5, min_covered_mass: float = MIN_COVERED_MASS) -> Reading:
    """Say whether an image shows its prompt.

    Args:
        look: The answer of the judge; None if not taken.
        threshold: Probability from which on the image shows it.
        min_covered_mass: Probability mass below which a look cannot be read.
    """
    if not is_readable(look, min_covered_mass):
        return "unreadable"
    return "shows" if look.probability >= threshold else "lacks"


def preference_of(
    in_order: Look | None,
    swapped: Look | None = None,
    tie_margin: float = 0.0,
    min_covered_mass: float = MIN_COVERED_MASS,
) -> Preference:
    """Say which image of a pair is preferred, from one look or from one in each order.

    With both orders the margin is the mean preference for the first image minus 1/2; orders that disagree are a tie
    (a position-biased judge prefers a place, not an image).

    Args:
        in_order: The look in which the pair's first image came first; None if not taken.
        swapped: The look in which its second image came first; None if not taken.
        tie_margin: Distance from 1/2 up to which a preference is a tie.
        min_covered_mass: Probability mass below which a look cannot be read.
    """
    taken = [(look, place) for place, look in enumerate((in_order, swapped)) if look is not None]
    if not taken or not all(is_readable(look, min_covered_mass) for look, _ in taken):
        return "unreadable"
    margins = [(1.0 - look.probability if place else look.probability) - 0.5 for look, place in taken]
    if min(margins) < 0 < max(margins):
        return "tie"
    margin = sum(margins) / len(margins)
    if abs(margin) <= tie_margin:
        return "tie"
    return "first" if margin > 0 else "second"


def verdict_of(preference: Preference, first: Owner = "student") -> Verdict:
    """Say whose image is preferred in a pair of the student's image and a teacher's.

    Args:
        preference: Which image of the pair fits better.
        first: Whose image is the first of the pair.
    """
    second: Owner = "teacher" if first == "student" else "student"
    owners: dict[Preference, Verdict] = {"first": first, "second": second, "tie": "tie", "unreadable": "invalid"}
    return owners[preference]
