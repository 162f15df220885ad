"""From the probabilities of a model's next token to the probabilities of a closed set of answers: pure maths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from evolvedirector.errors import UserError
from evolvedirector.records.looks import MIN_COVERED_MASS
from evolvedirector.records.questions import Answer

Encode = Callable[[str], Sequence[int]]
"""Text to token ids, without any token of its own at start or end."""

_CARRIER = ":"
"""An answer behind this sign shows the tokens of one that no white space precedes: some tokenizers add a space to
whatever starts a text."""


def spellings(answer: str) -> tuple[str, ...]:
    """Return the ways in which a model may write an answer: three cases, with and without a space before it.

    Args:
        answer: As the question names it.
    """
    cases = dict.fromkeys((answer, answer.lower(), answer.upper(), answer.capitalize()))
    return tuple(lead + case for case in cases for lead in ("", " "))


def first_tokens(answer: str, encode: Encode) -> frozenset[int]:
    """Return every token with which an answer may begin.

    Args:
        answer: As the question names it.
        encode: Text to token ids.
    """
    carrier = list(encode(_CARRIER))
    found = set()
    for spelling in spellings(answer):
        alone = list(encode(spelling))
        found.update(alone[:1])
        behind = list(encode(_CARRIER + spelling))
        if behind[: len(carrier)] == carrier:
            found.update(behind[len(carrier) : len(carrier) + 1])
    return frozenset(found)


def answer_tokens(answers: Sequence[str], encode: Encode) -> tuple[frozenset[int], ...]:
    """Return, per answer, the tokens that begin it and no other answer.

    A token that begins several (a lone space, where a tokenizer splits it off) says nothing and counts for none.

    Args:
        answers: All answers that count.
        encode: Text to token ids.

    Raises:
        UserError: If there are fewer than two answers, or two of them cannot be told apart by their first token.
    """
    if len(answers) < 2:
        raise UserError(f"Answers {tuple(answers)}: too few. Allowed are two or more. Write ('yes', 'no').")
    tokens = [first_tokens(answer, encode) for answer in answers]
    own = []
    for place, found in enumerate(tokens):
        others = frozenset[int]().union(*(other for at, other in enumerate(tokens) if at != place))
        own.append(found - others)
        if not own[-1]:
            rivals = [answers[at] for at, other in enumerate(tokens) if at != place and other & found]
            raise UserError(
                f"The answer {answers[place]!r} begins with the same token as {rivals}. Allowed are answers that this "
                "model's tokenizer tells apart by their first token. Write short words that begin differently."
            )
    return tuple(own)


def answer_of_masses(
    item_id: str, answers: Sequence[str], masses: Sequence[float], min_covered_mass: float = MIN_COVERED_MASS
) -> Answer:
    """Turn the probability mass on each answer into an answer.

    p_i = m_i / sum_j m_j, where m_i sums the next-token probabilities of all spellings of answer i, as GenEval 2
    (Kamath et al. 2025) reads its models. sum_j m_j is the covered mass: what is missing to 1 wanted to say something
    else. It is recorded as measured; where a floor above the round's own (0.5) is asked for and missed, as 0.

    Args:
        item_id: Of the question.
        answers: All answers that count, for the reason.
        masses: Probability per answer, before they are made to sum to 1.
        min_covered_mass: Under this an answer is not read.
    """
    covered = math.fsum(masses)
    if not math.isfinite(covered) or covered <= 0.0:
        return unread(item_id, answers, "the model gave no finite probability to any answer")
    shares = tuple(mass / covered for mass in masses)
    covered = min(1.0, covered)
    if covered >= min_covered_mass:
        return Answer(item_id, shares, covered, "probability")
    reason = f"{covered:.1%} of the probability lies on {', '.join(answers)}; {min_covered_mass:.0%} are needed"
    recorded = covered if covered < MIN_COVERED_MASS else 0.0
    return Answer(item_id, shares, recorded, "probability", reason)


def unread(item_id: str, answers: Sequence[str], reason: str) -> Answer:
    """Make the answer that says nothing, with the reason.

    Args:
        item_id: Of the question.
        answers: All answers that would have counted.
        reason: Why there is none.
    """
    return Answer(item_id, (1.0 / len(answers),) * len(answers), 0.0, "probability", reason)
