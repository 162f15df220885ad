"""Student against teacher by a judge, in both orders: what it comes to, and how far two judges differ on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolvedirector.evaluation.shares import Share, share_of_prompts
from evolvedirector.judges.judge import Judge
from evolvedirector.records import Look, OrderedPair, Prompt, Verdict
from evolvedirector.records.looks import preference_of, verdict_of

_WORTH = {"student": 1.0, "tie": 0.5, "teacher": 0.0}


def compare_in_both_orders(judge: Judge, pairs: Sequence[tuple[Prompt, bytes, bytes]]) -> dict[str, Verdict]:
    """Ask which image fits better, each pair in both orders; returns the verdict by prompt id.

    Args:
        judge: Who looks.
        pairs: Prompt, student's image, teacher's image; one per prompt.
    """
    questions = []
    for prompt, student, teacher in pairs:
        questions.append(OrderedPair(f"{prompt.id}-student", student, teacher, prompt.text))
        questions.append(OrderedPair(f"{prompt.id}-teacher", teacher, student, prompt.text))
    looks: dict[str, Look] = {look.item_id: look for look in judge.look(questions)}
    return {prompt.id: _verdict(looks, prompt.id) for prompt, _, _ in pairs}


def _verdict(looks: Mapping[str, Look], prompt_id: str) -> Verdict:
    first, second = looks.get(f"{prompt_id}-student"), looks.get(f"{prompt_id}-teacher")
    return "invalid" if first is None or second is None else verdict_of(preference_of(first, second), first="student")


def win_rate_figures(verdicts: Mapping[str, Verdict], skills: Mapping[str, str]) -> dict[str, Any]:
    """Return the student's share of prompts won, ties counted as half, with 95 % intervals, in all and by skill.

    Args:
        verdicts: By prompt id; unreadable ones are counted and left out of the rate.
        skills: Skill by prompt id.
    """
    readable = {prompt_id: verdict for prompt_id, verdict in verdicts.items() if verdict != "invalid"}
    by_skill: dict[str, list[list[float]]] = {}
    for prompt_id, verdict in readable.items():
        by_skill.setdefault(skills[prompt_id], []).append([_WORTH[verdict]])
    everything = [outcome for outcomes in by_skill.values() for outcome in outcomes]
    return {
        **_figures(share_of_prompts(everything)),
        "unreadable": len(verdicts) - len(readable),
        "skills": {skill: _figures(share_of_prompts(by_skill[skill])) for skill in sorted(by_skill)},
    }


def _figures(share: Share | None) -> dict[str, Any]:
    if share is None:
        return {"win_rate": None, "interval": None, "prompts": 0}
    return {"win_rate": round(share.value, 6), "interval": share.interval, "prompts": share.prompts}


MARKED_OVER = 0.10
"""Difference of two win rates, as a share, from which a report marks it."""


def gap_figures(
    training: Mapping[str, Verdict], evaluation: Mapping[str, Verdict], skills: Mapping[str, str]
) -> dict[str, Any]:
    """Compare what two judges made of the same pairs.

    A student is trained to please one judge; where only that judge sees it improve, it learned the judge's mistakes.
    How many candidates a round rejects says nothing of this, as each round rejects other prompts: the same held-out
    pairs must be shown to both.

    Args:
        training: Verdicts of the training judge by prompt id.
        evaluation: Verdicts of the evaluation judge by prompt id.
        skills: Skill by prompt id.

    Returns:
        The training judge's win rate as `win_rate_figures` gives it, `difference` (training less evaluation, over
        prompts that both could read) and `same_verdict`, the share of those with one verdict; None without any.
    """
    both = [
        key for key, verdict in training.items() if verdict != "invalid" and evaluation.get(key, "invalid") != "invalid"
    ]
    rates = [win_rate_figures({key: of[key] for key in both}, skills)["win_rate"] for of in (training, evaluation)]
    same = sum(training[key] == evaluation[key] for key in both)
    return win_rate_figures(training, skills) | {
        "difference": round(rates[0] - rates[1], 6) if both else None,
        "same_verdict": round(same / len(both), 6) if both else None,
    }


def is_marked(difference: float | None) -> bool:
    """Whether two judges differ so much that a report must say so.

    Args:
        difference: Of their win rates; None where it is not known.
    """
    return difference is not None and abs(difference) > MARKED_OVER
