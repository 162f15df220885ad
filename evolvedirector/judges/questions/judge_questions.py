"""What a vision-language model is asked, and how its answer becomes a look: the same for every kind of judge model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from evolvedirector.records import ImageAndPrompt, Look, OrderedPair
from evolvedirector.records.questions import LETTERS, YES_NO, Answer, Question, quoted

CHECK_QUESTION = 'Does this picture show exactly this: "{prompt}"? Answer yes or no.'
PAIR_QUESTION = (
    'Two pictures, A and then B, were made for this description: "{prompt}". Which one fits it better? '
    "Answer with one letter, A or B."
)
SIDE_BY_SIDE_QUESTION = (
    'This picture holds two images, A on the left and B on the right, made for this description: "{prompt}". '
    "Which one fits it better? Answer with one letter, A or B."
)


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
