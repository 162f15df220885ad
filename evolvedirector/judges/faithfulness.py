"""From answers about parts of an image to one look at the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.records import AtomAnswer, FaithfulnessLook, ImageAndPrompt, Look
from evolvedirector.records.looks import MIN_COVERED_MASS


@runtime_checkable
class AtomJudge(Protocol):
    """A judge that can also say which part of a prompt an image misses."""

    def ask_atoms(self, items: Sequence[ImageAndPrompt]) -> Iterator[FaithfulnessLook]:
        """Yield, per item, one answer per object, colour, count and relation of its prompt."""
        ...


def _is_readable(answer: AtomAnswer) -> bool:
    return answer.covered_mass >= MIN_COVERED_MASS and 0.0 <= answer.probability <= 1.0


def _by_question(look: FaithfulnessLook) -> dict[tuple[str, str], list[float]]:
    """Group the readable answers by what was asked, in the order of the questions."""
    asked: dict[tuple[str, str], list[float]] = {}
    for answer in look.answers:
        if _is_readable(answer):
            asked.setdefault((answer.kind, answer.question), []).append(answer.probability)
    return asked


def exact_probability(answers: Sequence[float]) -> float:
    """Combine answers that are taken for true: one no is enough to fail the image.

    The geometric mean of the answers, as Soft-TIFA (GenEval 2, Kamath et al. 2025) takes it, halved where an answer is
    no, so that a long prompt with one missing part does not pass by its many right ones:
    p = (prod q_i)^(1/n) * (1 if min q_i >= 1/2 else 1/2). It is at least 1/2 exactly where every answer is.

    Args:
        answers: probability of yes per question, 0 to 1; at least one.
    """
    if min(answers) == 0.0:
        return 0.0
    mean = math.exp(sum(math.log(answer) for answer in answers) / len(answers))
    if min(answers) < 0.5:
        return 0.5 * mean
    return max(0.5, mean)  # rounding must not turn n times 1/2 into less


def noisy_probability(margins: Sequence[int], expected_error: float) -> float:
    """Combine answers of which some are wrong: a no is evidence, not proof.

    The posterior of "all n parts are there" against "1 to n are missing", even odds before the first answer. Every
    answer is wrong with probability e, independently; when parts are missing, every number of them is equally likely,
    and so is which. A part with y yeses and z noes is r = ((1 - e) / e)^(z - y) times likelier to be answered so when
    it is missing (the log-odds of its answers add up). With E_k the k-th elementary symmetric polynomial of the n
    ratios: p = 1 / (1 + mean over k = 1..n of E_k(r) / C(n, k)). A few noes among many yeses still pass.

    Args:
        margins: number of yeses minus number of noes, per question; at least one question.
        expected_error: share of wrong answers, over 0 and under 0.5.
    """
    odds = (1.0 - expected_error) / expected_error
    polynomials = [1.0]  # E_0, E_1, ... of the questions so far
    for margin in margins:
        ratio = odds ** -max(-20, min(20, margin))  # bounded: no overflow, and certain anyway
        shifted = [0.0, *(ratio * value for value in polynomials)]
        polynomials = [a + b for a, b in zip([*polynomials, 0.0], shifted, strict=True)]
    count = len(margins)
    likelier = sum(polynomials[k] / math.comb(count, k) for k in range(1, count + 1)) / count
    return 1.0 / (1.0 + likelier)


def look_of(answers: FaithfulnessLook, expected_error: float = 0.0, min_readable_share: float = 0.5) -> Look:
    """Combine the answers about one image into one look at it.

    A question may be asked several times; its answers count together. With errors per question, the chance that all n
    answers are right shrinks as (1 - e)^n: at 10 % error a faithful image of eight parts would fail more often than
    not. `expected_error` says how many wrong answers to reckon with.

    Args:
        answers: one reading of an image, question by question.
        expected_error: share of wrong answers; 0 takes every answer for true (`exact_probability`), more weighs them
            (`noisy_probability`).
        min_readable_share: share of readable answers under which the look as a whole cannot be read.

    Returns:
        The probability that the image shows all of its prompt, from the readable answers. Its covered mass is the mean
        over all answers, or 0 where too few can be read; its reason names the kinds that are missing.

    Raises:
        ValueError: an error or a share outside of its limits.
    """
    if not 0.0 <= expected_error < 0.5:
        raise ValueError(
            f"expected_error={expected_error}. Allowed is 0 to under 0.5; at 0.5 an answer says nothing. Write 0.1."
        )
    if not 0.0 < min_readable_share <= 1.0:
        raise ValueError(f"min_readable_share={min_readable_share}. Allowed is over 0 and at most 1. Write 0.5.")
    total = len(answers.answers)
    read = sum(map(_is_readable, answers.answers))
    if read == 0 or read < min_readable_share * total:
        reason = answers.reason or f"{read} of {total} answers can be read"
        return Look(answers.item_id, 0.5, 0.0, reason, sent=answers.sent, cut_off=answers.cut_off)
    readable = _by_question(answers)
    if expected_error > 0.0:
        margins = [sum(1 if answer >= 0.5 else -1 for answer in asked) for asked in readable.values()]
        probability = noisy_probability(margins, expected_error)
    else:
        probability = exact_probability([sum(asked) / len(asked) for asked in readable.values()])
    masses = [answer.covered_mass if _is_readable(answer) else 0.0 for answer in answers.answers]
    kinds = missing(answers)
    reason = answers.reason or (f"missing: {', '.join(kinds)}" if kinds else "")
    return Look(answers.item_id, probability, min(1.0, sum(masses) / total), reason)


def missing(look: FaithfulnessLook) -> tuple[str, ...]:
    """Name the kinds of part that an image lacks: what to write the next prompts about.

    Args:
        look: one reading of an image, question by question.

    Returns:
        Each kind once, in the order of the questions; empty where every readable question is answered yes (with the
        mean of its answers, where it was asked several times).
    """
    kinds = (kind for (kind, _), asked in _by_question(look).items() if sum(asked) < 0.5 * len(asked))
    return tuple(dict.fromkeys(kinds))
