"""What a vision-language model is asked, and how its answer becomes a look: the same for every kind of judge model."""

from __future__ import annotations

from evolvedirector.records import Look, OrderedPair
from evolvedirector.records.questions import LETTERS, Answer, Question, quoted

PAIR_QUESTION = (
    'Two pictures, A and then B, were made for this description: "{prompt}". Which one fits it better? '
    "Answer with one letter, A or B."
)
SIDE_BY_SIDE_QUESTION = (
    'This picture holds two images, A on the left and B on the right, made for this description: "{prompt}". '
    "Which one fits it better? Answer with one letter, A or B."
)


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
