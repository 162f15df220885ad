"""How far the judge that chose the training data and the judge of the headline figures see different things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolvedirector.evaluation.comparisons import win_rate_figures
from evolvedirector.records import Verdict

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
