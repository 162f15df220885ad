"""How far the judge is right, in words, and what two judges say of the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolvedirector.evaluation.comparisons import is_marked
from evolvedirector.evaluation.intervals import wilson_interval
from evolvedirector.records import JudgeAccuracy, RoundFigures, Tally
from evolvedirector.records.judge_accuracy import clipped
from evolvedirector.report.charts import Chart, chart, label


def judge_sentence(figures: RoundFigures) -> str:
    """Say how far the judge is right, and whether failure rates are corrected by it; empty where nobody measured.

    Canaries alone never make a judge without error: they give a bound on its gross mistakes (Wilson, 95 %).

    Args:
        figures: Of the round.
    """
    accuracy, judge = figures.judge_accuracy, figures.judge
    if accuracy.is_known:
        (sensitivity, specificity), counts = accuracy.rates, (accuracy.lacks, accuracy.shows)
        of_lacks, of_shows = (f" of {count}" if count else "" for count in counts)
        said = f"judge's sensitivity {sensitivity:.2f}{of_lacks}, specificity {specificity:.2f}{of_shows}"
        return said if accuracy.says_something else f"{said}: its looks say nothing, no correction"
    if not judge.get("canaries"):
        return "judge's error unknown, no correction" if judge else ""
    asked, right = int(judge["canaries"]), int(judge["canaries right"])
    least, most = wilson_interval(asked - right, asked) or (0.0, 1.0)
    gross = f"at least {least:.0%}" if right < asked else f"up to {most:.0%}"
    return (
        f"judge's error unknown without gold ({right} of {asked} canaries right, gross errors {gross}), no correction"
    )


def corrected_shares(
    looked: Mapping[str, int], failed: Mapping[str, int], judge: JudgeAccuracy
) -> dict[str, dict[str, Any]]:
    """Return by skill the failed share without the judge's mistakes and its 95 % interval, both from 0 to 1.

    Skills that the looks say nothing about are left out.

    Args:
        looked: Readable looks by skill.
        failed: How many of them say failed.
        judge: How far it was right.
    """
    found: dict[str, dict[str, Any]] = {}
    for skill, count in looked.items():
        tally = Tally(count, failed.get(skill, 0))
        share, interval = judge.corrected(tally), judge.interval(tally)
        if share is not None and interval is not None:
            found[skill] = {"share": round(clipped(share), 4), "interval": [round(limit, 4) for limit in interval]}
    return found


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
