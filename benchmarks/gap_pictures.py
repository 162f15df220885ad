"""The picture of the gap benchmark: accuracy on the gap over teacher calls, one line an arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.efficiency_pictures import COLOURS
from benchmarks.gap_calls import STATIC, Run, curves

DASHES = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D")


def draw_gap(runs: Sequence[Run], path: Path) -> None:
    """Draw a panel for each world that was run: the mean over seeds a line, least to most shaded.

    Args:
        runs: Finished runs, one at least.
        path: The PNG to write; its folder is made.
    """
    worlds, arms = (list(dict.fromkeys(run[name] for run in runs)) for name in ("world", "arm"))
    rows = -(-len(worlds) // 2)
    columns = min(2, len(worlds))
    figure, panels = plt.subplots(rows, columns, figsize=(5.2 * columns + 2.4, 3.6 * rows), dpi=130, squeeze=False)
    for panel, world in zip(panels.flat, worlds, strict=False):
        _panel(panel, runs, world, arms)
    for panel in panels.flat[len(worlds) :]:
        panel.axis("off")
    handles = {label: line for panel in panels.flat for line, label in zip(*panel.get_legend_handles_labels())}  # noqa: B905
    figure.legend(handles.values(), handles.keys(), fontsize=7, loc="center right", handlelength=3.5)
    figure.tight_layout(rect=(0, 0, 1 - 2.4 / (5.2 * columns + 2.4), 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _panel(panel: Axes, runs: Sequence[Run], world: str, arms: Sequence[str]) -> None:
    """Draw one world; an arm has the same colour in each."""
    budgets: set[int] = set()
    for arm, seeds in curves(runs, world).items():
        place = arms.index(arm)
        calls = sorted({calls for curve in seeds.values() for calls in curve})
        values = [[curve[n] for curve in seeds.values() if n in curve] for n in calls]
        budgets.update(calls)
        colour = "0.3" if arm == STATIC[0] else COLOURS[place % len(COLOURS)]
        line, marker = DASHES[place // len(COLOURS) % len(DASHES)], MARKERS[place % len(MARKERS)]
        panel.plot(calls, list(map(mean, values)), line, color=colour, marker=marker, markersize=4, label=arm)
        panel.fill_between(calls, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.12, linewidth=0)
    panel.set_xscale("log")
    panel.set_xticks(sorted(budgets), [str(n) for n in sorted(budgets)])
    panel.minorticks_off()
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("teacher calls")
    panel.set_ylabel("gap drawn right")
    panel.grid(alpha=0.3)
    bases = {run["seed"]: run["base"]["reached"] for run in runs if run["world"] == world}
    gate = "" if all(bases.values()) else ", below the gate"
    panel.set_title(f"p = {world}, {len(bases)} seeds: mean, least to most{gate}", fontsize=9)
