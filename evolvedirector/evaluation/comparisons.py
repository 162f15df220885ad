"""Student against teacher by a judge, in both orders, and what it comes to."""

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
