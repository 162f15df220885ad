"""The first screen of the report: what came out, in words and four figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def sentences(summary: Mapping[str, Any], spending: Mapping[str, Any], dataset: Mapping[str, int]) -> list[str]:
    """Say in a few plain sentences what a run came to; what was not measured is said to be unknown.

    Args:
        summary: The content of `summary.json`; empty when the run never wrote one.
        spending: What the ledger sums up to; empty without a dataset.
        dataset: Prompts by state in the newest revision; empty without a dataset.
    """
    said = [_learned(summary, dataset)]
    if (mean := summary.get("accuracy_mean")) is not None:
        said.append(_draws(mean, summary))
    if rates := _rates(summary):
        best, worst = max(rates, key=lambda item: item[1]), min(rates, key=lambda item: item[1])
        if len(rates) == 1:
            said.append(f"Side by side with {best[0]}, its image is the better one in {percent(best[1])} of cases.")
        else:
            said.append(
                f"Side by side with its teachers, its image is the better one in {percent(worst[1])} of cases against "
                f"{worst[0]} and {percent(best[1])} against {best[0]}; 50 % would be a draw."
            )
    if spending:
        lost = f", {spending['lost_calls']:,} of them lost on the way" if spending["lost_calls"] else ""
        said.append(
            f"It cost {spending['teacher_calls']:,} teacher calls{lost} and {spending['judge_calls']:,} looks of the "
            f"judge: {money(spending['cost_usd'])} in all."
        )
    if beside := summary.get("background"):
        said.append(_beside(beside))
    if summary.get("nonfinite_steps"):
        said.append(_nonfinite(summary["nonfinite_steps"], summary.get("nonfinite_at") or []))
    return said


def tiles(
    summary: Mapping[str, Any], spending: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Return the figures at the top: `title`, `figure` and `note` of each."""
    found = []
    mean = summary.get("accuracy_mean")
    found.append(
        {
            "title": "Accuracy" if summary.get("accuracy_by_kind") else "Accuracy on new prompts",
            "figure": "not measured" if mean is None else percent(mean),
            "note": interval(summary.get("accuracy_mean_interval")).strip(" ()") or "no reader was configured",
        }
    )
    rates = _rates(summary)
    low, high = (min(r for _, r in rates), max(r for _, r in rates)) if rates else (0.0, 0.0)
    figure = "not measured" if not rates else percent(low) if low == high else f"{100 * low:.0f}–{percent(high)}"
    found.append(
        {
            "title": "Wins against teachers",
            "figure": figure,
            "note": "50 % is a draw; higher is better" if rates else "",
        }
    )
    if spending:
        apart = calls_for_evaluation(summary)
        found.append(
            {
                "title": "Bought from teachers",
                "figure": f"{spending['teacher_calls']:,} calls",
                "note": money(spending["cost_usd"]) + (f"; {apart:,} more to measure it" if apart else ""),
            }
        )
    trained = [step["images"] for step in steps]
    trained = trained[next((place for place, count in enumerate(trained) if count), 0) :]
    if trained:
        grew = f"{trained[0]:,} → {trained[-1]:,}" if len(trained) > 1 else f"{trained[-1]:,}"
        retired = f"{steps[-1]['retired']:,} retired" if steps[-1]["retired"] else "images in training"
        found.append({"title": "Dataset", "figure": grew, "note": retired})
    return found


def accuracy_rows(summary: Mapping[str, Any]) -> list[tuple[str, float, Sequence[float] | None, int | None]]:
    """List the accuracy by skill, and by kind of prompt after each skill of which both kinds were read.

    Args:
        summary: The content of `summary.json`.

    Returns:
        Name, share, 95 % interval and prompts behind it; None for what the summary does not say.
    """
    intervals, prompts = summary.get("accuracy_interval") or {}, summary.get("accuracy_prompts") or {}
    parted = summary.get("accuracy_by_kind") or {}
    rows = []
    for skill, value in (summary.get("accuracy") or {}).items():
        rows.append((skill, value, intervals.get(skill), prompts.get(skill)))
        for kind, name in (("held_out", "held-out kinds"), ("trained", "trained kinds")):
            if part := (parted.get(skill) or {}).get(kind):
                rows.append((f"{skill}, {name}", part["share"], part.get("interval"), part.get("prompts")))
    return rows


def calls_for_evaluation(summary: Mapping[str, Any]) -> int:
    """Sum the teacher calls that all suites made outside the budget; a second suite of one class has a key of its own.

    Args:
        summary: The content of `summary.json`.
    """
    key = "evaluation_teacher_calls"
    return sum(int(calls or 0) for name, calls in summary.items() if name == key or name.endswith(f"/{key}"))


def suite_tables(summary: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the tables of suites that no other figure of a summary tells already, by suite and row.

    Accuracy, win rates and forgetting have keys of their own, and places of their own on a page.

    Args:
        summary: The content of `summary.json`.
    """
    rates = {name: rate["win_rate"] for name, rate in (summary.get("win_rate_held_out") or {}).items()}
    accuracy = {"mean": summary.get("accuracy_mean"), **(summary.get("accuracy") or {})}
    told = (accuracy, rates, {"forgotten": (summary.get("forgetting") or {}).get("share")})
    tables = {
        name: {row: _row(figure) for row, figure in rows.items()}
        for name, rows in (summary.get("suites") or {}).items()
    }
    return {
        name: rows
        for name, rows in tables.items()
        if not any({row: figure["value"] for row, figure in rows.items()} == values for values in told)
    }


def _row(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Take a row as it must be: a file that somebody edited is told as damaged, not shown."""
    value, ends = figure["value"], figure["interval"]
    return {
        "value": None if value is None else float(value),
        "interval": None if ends is None else [float(ends[0]), float(ends[1])],
        "of": int(figure["of"]),
        "unit": str(figure["unit"]),
    }


def percent(share: float) -> str:
    """Write a share for people."""
    return f"{100 * share:.0f} %" if share in (0, 1) or 0.01 <= share <= 0.99 else f"{100 * share:.1f} %"


def interval(bounds: Sequence[float] | None) -> str:
    """Write a 95 % interval in brackets; nothing where there is none."""
    return f" (95 % interval {100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %)" if bounds else ""


def money(cost_usd: float) -> str:
    """Write an amount; whatever is free is said to be."""
    return f"${cost_usd:,.2f}" if cost_usd else "no money"


def duration(seconds: float | None) -> str:
    """Write a time for people; nothing where it is unknown."""
    if not seconds:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _learned(summary: Mapping[str, Any], dataset: Mapping[str, int]) -> str:
    images, rounds = summary.get("images_seen"), summary.get("rounds")
    trained = dataset.get("images", dataset.get("live", 0) + dataset.get("mastered", 0))
    if not images:
        return "This run has no finished epoch yet; what is known so far is below."
    skipped = f" ({summary['rounds_skipped']} more were skipped)" if summary.get("rounds_skipped") else ""
    over = f" over {rounds:,} round{'' if rounds == 1 else 's'} of evolution{skipped}" if rounds else ""
    of = f" made of {trained:,} different ones" if trained else ""
    return f"The student has seen {images:,} training images{of}{over}."


def _beside(figures: Mapping[str, Any]) -> str:
    """Say how far rounds in the background lagged behind, and how long training waited for them."""
    rule = "at most " if figures["as_soon_as_ready"] else ""
    waited = f", and training waited {duration(figures['waited_s']) or 'no time'} for them"
    share = f" ({percent(figures['idle_share'])} of their time)" if figures["idle_share"] is not None else ""
    return (
        "Rounds went on in the background: what they bought was read "
        f"{rule}{figures['stale_epochs']:,} epochs after the student's drawings{waited}{share}."
    )


def _draws(mean: float, summary: Mapping[str, Any]) -> str:
    """Say how often it draws what a prompt says, and whether it may have met such prompts before."""
    prompts = sum((summary.get("accuracy_prompts") or {}).values())
    trained = sum(
        (kinds.get("trained") or {}).get("prompts", 0) for kinds in (summary.get("accuracy_by_kind") or {}).values()
    )
    shown = f"draws what the prompt says in {percent(mean)} of its images"
    bounds = interval(summary.get("accuracy_mean_interval"))
    if trained:
        of = f"{prompts - trained:,} prompts that it never trained on and {trained:,} of kinds that it may have met"
        return f"It now {shown}, measured on {of}{bounds}."
    of = f", measured on {prompts:,} prompts that it never trained on" if prompts else ""
    return f"Asked for something new, it now {shown}{of}{bounds}."


def _nonfinite(count: int, steps: Sequence[int]) -> str:
    at = f", at step {steps[0]:,}" if count == 1 and steps else f", the first at step {steps[0]:,}" if steps else ""
    of = "one step" if count == 1 else f"{count:,} steps"
    return f"Something went wrong in {of}{at}: loss or gradient was not finite (NaN or infinite)."


def _rates(summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    rates = summary.get("win_rate_held_out") or {}
    return [(name, rate["win_rate"]) for name, rate in rates.items() if rate.get("win_rate") is not None]
