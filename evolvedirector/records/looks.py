"""What judges are asked, and what they see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["student", "teacher", "tie", "invalid"]


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
class GoldItem:
    """An image with a prompt and the known answer to `does it show the prompt?`: what a judge is measured on."""

    item_id: str
    image: bytes
    prompt: str
    shows: bool
