"""The table of the policy trial: means over seeds and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.trial_arms import ARMS, REFERENCE

_T_95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 14: 2.14, 19: 2.09, 29: 2.05}
"""Two-sided 95 % quantile of Student's t by degrees of freedom."""


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of paired differences (Student's t); without width over one pair.

    Args:
        differences: One per seed.
    """
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, mean
    freedom = len(differences) - 1
    quantile = _T_95[max(known for known in _T_95 if known <= freedom)]
    half = quantile * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean - half, mean + half


def paired(runs: Sequence[Mapping[str, Any]], name: str, other: str) -> list[float]:
    """List the differences in accuracy between two arms over the seeds that both have."""
    by_arm: dict[str, dict[int, float]] = {}
    for item in runs:
        by_arm.setdefault(item["arm"], {})[item["seed"]] = item["accuracy"]
    ours, theirs = by_arm.get(name, {}), by_arm.get(other, {})
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Write the table as Markdown: one row per arm, in the order of the arms.

    Args:
        runs: Finished runs, as the results file holds them.
    """
    skills = list(runs[0]["by_skill"]) if runs else []
    heads = ["arm", "runs", "accuracy", *skills, f"minus {REFERENCE}, 95 %", "minus no judge, 95 %", "calls", "CPU s"]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in ARMS:
        mine = [item for item in runs if item["arm"] == name]
        if not mine:
            continue
        cells = [name, str(len(mine)), f"{statistics.fmean(item['accuracy'] for item in mine):.3f}"]
        cells += [f"{statistics.fmean(item['by_skill'][skill] for item in mine):.2f}" for skill in skills]
        for other in (REFERENCE, "no judge"):
            pairs = paired(runs, name, other)
            cells.append("{:+.3f} to {:+.3f}".format(*interval(pairs)) if pairs and name != other else "")
        cells.append("{:.0f}".format(statistics.fmean(item["calls"] for item in mine)))
        cells.append("{:.1f}".format(statistics.fmean(item["cpu_seconds"] for item in mine)))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)
