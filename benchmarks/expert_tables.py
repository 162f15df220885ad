"""The tables of the benchmark of experts: pure, from the figures of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

Run = dict[str, Any]
Job = tuple[str, str, int]
ASPECTS = ("faithfulness", "colourfulness", "symmetry")
"""VersaT2I's bar stands for these; background noise has an expert and no bar of its own."""
SELMA_GAIN, SELMA_ROOM, SELMA_MEAN = 0.2, 0.7, 0.05


def report(runs: Sequence[Run], jobs: Sequence[Job]) -> str:
    """Return the tables and bars of what was run, then what was not.

    Args:
        runs: Finished ones.
        jobs: All of the benchmark.
    """
    lines = []
    for name, source in dict.fromkeys((run["recipe"], run["source"]) for run in runs):
        of_pair = sorted((r for r in runs if (r["recipe"], r["source"]) == (name, source)), key=lambda run: run["seed"])
        lines += [f"## {name}, images of: {source} (seeds {', '.join(str(run['seed']) for run in of_pair)})", ""]
        lines += [*difference_table(of_pair), ""]
        lines += [*(versat2i_bars(of_pair) if name == "versat2i" else selma_bars(of_pair, source)), ""]
    done = {(run["recipe"], run["source"], run["seed"]) for run in runs}
    missing = [job for job in jobs if job not in done]
    lines += [f"{len(missing)} of {len(jobs)} runs were not made:" if missing else "Every run was made."]
    lines += [f"- {name}, images of: {source}, seed {seed}" for name, source, seed in missing]
    return "\n".join(lines)


def difference_table(runs: Sequence[Run]) -> list[str]:
    """Return a row for each arm: means over the seeds, then the t of the difference to the base in each of them.

    Args:
        runs: Of one recipe and source, by seed.
    """
    columns = list(runs[0]["figures"]["base"]["means"])
    lines = [f"| arm | {' | '.join(columns)} | smallest t |", "|---" * (len(columns) + 2) + "|"]
    for arm in runs[0]["figures"]:
        cells = []
        for column in columns:
            values = [run["figures"][arm]["means"][column] for run in runs]
            told = "" if arm == "base" else f" ({' '.join(_t(run, arm, column) for run in runs)})"
            cells.append(f"{mean(values):.3f}{told}")
        worst = "" if arm == "base" else " ".join(f"{worst_t(run, arm):+.1f}" for run in runs)
        lines.append(f"| {arm} | {' | '.join(cells)} | {worst} |")
    return lines


def versat2i_bars(runs: Sequence[Run]) -> list[str]:
    """Say of each bar of VersaT2I in how many seeds it held.

    Args:
        runs: By seed.
    """
    singles = [*ASPECTS, "background_noise"]
    bars = {
        f"the expert of {aspect} raises its own evaluator": [_mean(run, aspect, aspect) > 0 for run in runs]
        for aspect in ASPECTS
    }
    bars |= {
        "images chosen at random do not raise faithfulness": [
            _mean(run, "chance", "faithfulness") <= 0 for run in runs
        ],
        "every single expert and the joint one lower some aspect": [
            all(worst_t(run, arm) < 0 for arm in (*singles, "joint")) for run in runs
        ],
        "the worst aspect of the uniform merge is better than the joint one's": [
            worst_t(run, "uniform") > worst_t(run, "joint") for run in runs
        ],
        "and than that of every single expert": [
            worst_t(run, "uniform") > max(worst_t(run, arm) for arm in singles) for run in runs
        ],
        "(reported) the uniform merge is nowhere below the base": [
            run["figures"]["uniform"]["nowhere_below"] for run in runs
        ],
        "(reported) the gate is nowhere below the base": [run["figures"]["gate"]["nowhere_below"] for run in runs],
    }
    return [f"- {text}: in {sum(held)} of {len(held)} seeds" for text, held in bars.items()]


def selma_bars(runs: Sequence[Run], source: str) -> list[str]:
    """Say of each bar of SELMA in how many seeds it held; they stand for exact images alone.

    Args:
        runs: By seed.
        source: Who drew the images.
    """
    if source != "exact":
        return ["No bar stands for these images; the table is the figure."]
    gains, merges, sums = [], [], []
    for run in runs:
        base = run["figures"]["base"]["means"]
        with_room = [skill for skill, share in base.items() if share <= SELMA_ROOM]
        gains.append(all(_mean(run, skill, skill) >= SELMA_GAIN for skill in with_room))
        means = {arm: mean(of["means"].values()) for arm, of in run["figures"].items()}
        merges.append(means["uniform"] >= means["base"] + SELMA_MEAN)
        sums.append(means["sum"] < means["base"])
    return [
        f"- each expert gains {SELMA_GAIN} or more on its own skill where the base is at {SELMA_ROOM} or below: in "
        f"{sum(gains)} of {len(gains)} seeds",
        f"- the product mean is {SELMA_MEAN} or more above the base: in {sum(merges)} of {len(merges)} seeds",
        f"- the sum with weights of 1 is worse than the base: in {sum(sums)} of {len(sums)} seeds",
    ]


def worst_t(run: Run, arm: str) -> float:
    """Return the smallest t of an arm over the columns.

    Args:
        run: Finished.
        arm: Not the base.
    """
    return min(float(of["t"]) for of in run["figures"][arm]["differences"].values() if of["t"] is not None)


def _mean(run: Run, arm: str, column: str) -> float:
    return float(run["figures"][arm]["differences"][column]["mean"])


def _t(run: Run, arm: str, column: str) -> str:
    t = run["figures"][arm]["differences"][column]["t"]
    return "-" if t is None else f"{t:+.1f}"
