"""What the judge of the training data and the judge of the headline figures say of the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolvedirector.evaluation.comparisons import is_marked
from evolvedirector.report.charts import Chart, chart, label


def judge_gaps(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List, by teacher, the win rate in the eyes of both judges; `marked` where they are over 10 points apart.

    Args:
        summary: The content of `summary.json`; empty where both judges were not asked.
    """
    seen, rates = summary.get("win_rate_by_training_judge") or {}, summary.get("win_rate_held_out") or {}
    return [
        {
            "teacher": name,
            "training": gap["win_rate"],
            "evaluation": rates[name]["win_rate"],
            "difference": gap["difference"],
            "same_verdict": gap["same_verdict"],
            "marked": is_marked(gap["difference"]),
        }
        for name, gap in seen.items()
        if name in rates and gap["difference"] is not None
    ]


def gap_sentence(gaps: Sequence[Mapping[str, Any]]) -> str:
    """Say in one sentence where the judges are over 10 points apart, and what that means; empty where nowhere.

    Args:
        gaps: As `judge_gaps` returns them.
    """
    marked = [gap for gap in gaps if gap["marked"]]
    if not marked:
        return ""
    worst = max(marked, key=lambda gap: abs(gap["difference"]))
    points = f"{100 * abs(worst['difference']):.0f} points"
    if worst["difference"] > 0:
        return (
            f"The two judges diverge: the judge that chose the training data puts the win rate against "
            f"{worst['teacher']} {points} higher than the evaluation judge does, so part of the progress may be its "
            "mistakes, learned."
        )
    return (
        f"The two judges diverge: the judge that chose the training data puts the win rate against {worst['teacher']} "
        f"{points} lower than the evaluation judge does, so it may be buying what the student can draw already."
    )


def judges_chart(summary: Mapping[str, Any]) -> Chart | None:
    """Draw the win rate by both judges over training; crosses mark readings over 10 points apart. None without both.

    Args:
        summary: The content of `summary.json`.
    """
    points = [point for point in summary.get("win_rate_history") or [] if point.get("training")]
    teachers = list(dict.fromkeys(name for point in points for name in point["training"]))
    if not teachers:
        return None
    x = [point["global_step"] for point in points]
    traces: list[dict[str, Any]] = []
    for slot, name in enumerate(teachers):
        evaluation, training = ([point[judge].get(name) for point in points] for judge in ("evaluation", "training"))
        both = [(step, e, t) for step, e, t in zip(x, evaluation, training, strict=True) if None not in (e, t)]
        apart = [(step, t) for step, e, t in both if is_marked(t - e)]
        for judge, rates, dash in (("evaluation", evaluation, "solid"), ("training", training, "dot")):
            traces.append(
                {
                    "type": "scatter", "mode": "lines+markers", "name": f"{label(name)}: {judge} judge", "slot": slot,
                    "x": x, "y": rates, "line": {"dash": dash},
                }
            )  # fmt: skip
        if apart:
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "name": f"{label(name)}: over 10 points apart", "slot": slot,
                    "x": [step for step, _ in apart], "y": [rate for _, rate in apart],
                    "marker": {"symbol": "x", "size": 13},
                }
            )  # fmt: skip
    note = "The same held-out pairs, seen by both. Where only the judge of the training data sees progress, beware."
    axis = {"range": [-0.02, 1.02], "tickformat": ".0%"}
    return chart(
        "judges", "Wins by both judges", note, traces, yaxis=axis, xaxis={"title": {"text": "training step"}}
    )  # fmt: skip
