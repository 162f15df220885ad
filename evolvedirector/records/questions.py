"""A closed question about images, and its answer: what models that look at images are asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from evolvedirector.records.looks import ImageAndPrompt
from evolvedirector.records.prompts import MAX_PROMPT_CHARACTERS

CHECK_QUESTION = 'Does this picture show exactly this: "{prompt}"? Answer yes or no.'
YES_NO = ("yes", "no")
LETTERS = ("A", "B")


@dataclass(frozen=True, slots=True)
class Question:
    """Ask a model about one image or two, with a closed set of answers."""

    item_id: str
    images: tuple[bytes, ...]
    """Encoded images, in the order in which they are shown."""
    text: str
    answers: tuple[str, ...]
    """All answers that count; `YES_NO` or `LETTERS` as a rule."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold how likely a model finds each answer of a question."""

    item_id: str
    probabilities: tuple[float, ...]
    """One per answer of the question, summing to 1."""
    covered_mass: float = 1.0
    """Probability of all answers together before they were made to sum to 1; 0 where nothing could be read."""
    rung: str = ""
    """How the answer was read: `probability`, `logprobs`, `choice`, `schema` or `text`."""
    reason: str = ""
    sent: bool = True
    """False where the question never reached the model (no key, no connection): it is neither counted nor final."""
    cut_off: bool = False
    """True where the connection broke off under the question: it is counted, but not final."""


def quoted(prompt: str) -> str:
    """Make a prompt safe inside quotation marks: one line, no quote that ends it, bounded length.

    A prompt is data of others inside a question of ours; it must not be able to end the quotation and go on as an
    instruction.

    Args:
        prompt: Any text.
    """
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in prompt).split())
    return line.replace('"', "'").replace("“", "'").replace("”", "'")[:MAX_PROMPT_CHARACTERS]


def check_question(item: ImageAndPrompt, template: str = CHECK_QUESTION) -> Question:
    """Ask whether an image shows its prompt.

    Args:
        item: Image and prompt.
        template: Question with `{prompt}`, answered by yes or no.
    """
    return Question(item.item_id, (item.image,), template.replace("{prompt}", quoted(item.prompt)), YES_NO)


@runtime_checkable
class QuestionAnswerer(Protocol):
    """A vision-language model that answers closed questions about images; what judges and rewards are made of."""

    @property
    def fingerprint(self) -> str:
        """Name the model, its revision and every parameter that changes its answers."""
        ...

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Yield one answer per question; what cannot be read has covered mass 0, and is never an exception."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def close(self) -> Any:
        """Free memory and connections; the next call loads again."""
        ...
