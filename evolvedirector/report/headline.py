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
        prompts = sum((summary.get("accuracy_prompts") or {}).values())
        of = f", measured on {prompts:,} prompts that it never trained on" if prompts else ""
        said.append(
            f"Asked for something new, it now draws what the prompt says in {percent(mean)} of its images{of}"
            f"{interval(summary.get('accuracy_mean_interval'))}."
        )
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
    return said


def tiles(
    summary: Mapping[str, Any], spending: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Return the figures at the top: `title`, `figure` and `note` of each."""
    found = []
    mean = summary.get("accuracy_mean")
    found.append(
        {
            "title": "Accuracy on new prompts",
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
        apart = summary.get("evaluation_teacher_calls")
        found.append(
            {
                "title": "Bought from teachers",
                "figure": f"{spending['teacher_calls']:,} calls",
                "note": money(spending["cost_usd"]) + (f"; {apart:,} more to measure it" if apart else ""),
            }
        )
    trained = [step["live"] + step["mastered"] for step in steps]
    trained = trained[next((place for place, count in enumerate(trained) if count), 0) :]
    if trained:
        grew = f"{trained[0]:,} → {trained[-1]:,}" if len(trained) > 1 else f"{trained[-1]:,}"
        retired = f"{steps[-1]['retired']:,} retired" if steps[-1]["retired"] else "images in training"
        found.append({"title": "Dataset", "figure": grew, "note": retired})
    return found


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
    trained = dataset.get("live", 0) + dataset.get("mastered", 0)
    if not images:
        return "This run has no finished epoch yet; what is known so far is below."
    skipped = f" ({summary['rounds_skipped']} more were skipped)" if summary.get("rounds_skipped") else ""
    over = f" over {rounds:,} round{'' if rounds == 1 else 's'} of evolution{skipped}" if rounds else ""
    of = f" made of {trained:,} different ones" if trained else ""
    return f"The student has seen {images:,} training images{of}{over}."


def _rates(summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    rates = summary.get("win_rate_held_out") or {}
    return [(name, rate["win_rate"]) for name, rate in rates.items() if rate.get("win_rate") is not None]
