"""The pictures of the data-efficiency benchmark: accuracy against teacher calls, and what the calls were spent on."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""Okabe and Ito's palette: told apart by colour-blind readers too."""
STATIC = re.compile(r"static (\d*)N$")


def draw_all(runs: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw every picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    accuracy_against_calls(runs, folder / "data_efficiency.png")
    spend_over_rounds(runs, "screening N", folder / "spend_per_skill.png")


def accuracy_against_calls(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw mean held-out accuracy over teacher calls: the static sets as a curve, the arms at N as points."""
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=130)
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_arm.setdefault(run["arm"], []).append(run)
    static = sorted((group for arm, group in by_arm.items() if STATIC.match(arm)), key=lambda group: group[0]["calls"])
    calls = [group[0]["calls"] for group in static]
    axes.errorbar(calls, [_mean(g) for g in static], [_spread(g) for g in static], marker="o", color="0.4",
                  capsize=3, label="static set, prompts as the seeds")  # fmt: skip
    arms = [arm for arm in by_arm if not STATIC.match(arm) and not arm.startswith("un-skewed")]
    for number, arm in enumerate(arms):
        group, shift = by_arm[arm], 1 + 0.06 * (number + 1)
        axes.errorbar([group[0]["calls"] * shift], [_mean(group)], [_spread(group)], marker="s", capsize=3,
                      linestyle="none", color=COLOURS[number % len(COLOURS)], label=arm)  # fmt: skip
    axes.set_xscale("log")
    ticks = sorted({group[0]["calls"] for group in by_arm.values()})
    axes.set_xticks(ticks, [str(value) for value in ticks])
    axes.minorticks_off()
    axes.set_xlabel("teacher calls")
    axes.set_ylabel("held-out accuracy, mean over six skills")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    axes.set_title("Equal images seen; mean and deviation over seeds; squares: all at the leftmost spend", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def spend_over_rounds(runs: Sequence[dict[str, Any]], arm: str, path: Path) -> None:
    """Draw the share of each skill in what a policy bought, round by round, summed over seeds."""
    rounds: list[Counter[str]] = []
    for run in (run for run in runs if run["arm"] == arm):
        for number, row in enumerate(row for row in run["rounds"] if row["calls"]):
            if number == len(rounds):
                rounds.append(Counter())
            rounds[number].update(row["bought"])
    skills = sorted({skill for bought in rounds for skill in bought})
    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=130)
    bottom = [0.0] * len(rounds)
    for colour, skill in zip(COLOURS, skills, strict=False):
        shares = [bought[skill] / max(1, bought.total()) for bought in rounds]
        axes.bar(range(1, len(rounds) + 1), shares, bottom=bottom, color=colour, label=skill.replace("_", " "))
        bottom = [low + share for low, share in zip(bottom, shares, strict=True)]
    axes.set_xlabel("buying round")
    axes.set_ylabel("share of teacher calls")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(f"What {arm!r} buys", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _mean(group: Sequence[dict[str, Any]]) -> float:
    return statistics.mean(run["accuracy_mean"] for run in group)


def _spread(group: Sequence[dict[str, Any]]) -> float:
    return statistics.stdev(run["accuracy_mean"] for run in group) if len(group) > 1 else 0.0
