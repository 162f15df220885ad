"""What a vision-language model is asked, and how its answer becomes a look: the same for every kind of judge model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from evolvedirector.records import MAX_PROMPT_CHARACTERS, ImageAndPrompt, Look, OrderedPair

YES_NO = ("yes", "no")
LETTERS = ("A", "B")

CHECK_QUESTION = 'Does this picture show exactly this: "{prompt}"? Answer yes or no.'
PAIR_QUESTION = (
    'Two pictures, A and then B, were made for this description: "{prompt}". Which one fits it better? '
    "Answer with one letter, A or B."
)
SIDE_BY_SIDE_QUESTION = (
    'This picture holds two images, A on the left and B on the right, made for this description: "{prompt}". '
    "Which one fits it better? Answer with one letter, A or B."
)


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


def pair_question(pair: OrderedPair, template: str = PAIR_QUESTION) -> Question:
    """Ask which of two images fits a prompt better.

    Args:
        pair: Two images in the order in which they are shown.
        template: Question with `{prompt}`, answered by A (the first) or B.
    """
    text = template.replace("{prompt}", quoted(pair.prompt))
    return Question(pair.item_id, (pair.first, pair.second), text, LETTERS)


def look_of_answer(answer: Answer) -> Look:
    """Take the probability of the first answer (yes, A) as the look's.

    Args:
        answer: To a question of two answers.
    """
    fields = (answer.covered_mass, answer.reason, answer.rung, answer.sent, answer.cut_off)
    return Look(answer.item_id, answer.probabilities[0], *fields)
