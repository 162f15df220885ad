"""What the gap benchmark runs: seeds, budgets and the claim, fixed before any run, and what of it is missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.gap_calls import Run

SEEDS = range(8)
LEAST_CALLS, MOST_CALLS = 6, 384
BUDGETS = tuple(LEAST_CALLS * 2**power for power in range(7))
assert BUDGETS[-1] == MOST_CALLS
GATE = 0.97
"""A base must draw this share of known prompts right; the figures of one that does not are printed as such."""
MAY_STOP_AT, MAY_STOP_OVER = 96, 0.95
"""A screened arm over this accuracy at so many calls need not be run with more."""
WORLDS = ("1/3", "1/10", "1/20", "1/50", "emoji 1/7")
"""By name, so that a report needs no world."""
CLAIM_WORLD = "1/3"
CLAIM = {
    "static even": (12, 24, 48),
    "static even, drawn by loss": (6, 12, 24),
    "published rule": (6, 12, 24),
    "screening": (6, 12, 24),
    "screening, 20 % wrong looks": (6, 12, 24),
}
"""The part that `make bench-claim` runs first, at p = 1/3: arms and their budgets."""

Job = tuple[str, str, int, int]
"""World, arm, calls, seed."""


def claim() -> list[Job]:
    """List the runs behind the claim."""
    return [(CLAIM_WORLD, arm, calls, seed) for seed in SEEDS for arm, budgets in CLAIM.items() for calls in budgets]


def finished(runs: Iterable[Run]) -> set[Job]:
    """Name what need not run again."""
    return {(run["world"], run["arm"], run["calls"], run["seed"]) for run in runs}


def not_run(runs: Sequence[Run], arms: Sequence[str]) -> list[str]:
    """Say, a line each, what of the claim and of the whole grid was not run.

    Args:
        runs: Finished runs.
        arms: Names of all arms, ablations included.
    """
    done = finished(runs)
    missing = [job for job in claim() if job not in done]
    lines = [f"Of the {len(claim())} runs behind the claim (p = {CLAIM_WORLD}), {len(missing)} are missing."]
    lines += _by_arm(missing)
    for world in WORLDS:
        of_world = [run for run in runs if run["world"] == world]
        if not of_world:
            lines.append(f"p = {world}: nothing was run.")
            continue
        absent = [arm for arm in arms if not any(run["arm"] == arm for run in of_world)]
        if absent:
            lines.append(f"p = {world}, no run of: {'; '.join(absent)}.")
        begun = [arm for arm in arms if arm not in absent]
        listed, stopped = done.union(claim()), _stopped(of_world)
        jobs = [(world, arm, calls, seed) for arm in begun for calls in BUDGETS for seed in SEEDS]
        jobs = [job for job in jobs if job not in listed]
        lines += _by_arm([job for job in jobs if job[2] <= MAY_STOP_AT or (job[1], job[3]) not in stopped])
    return lines


def _stopped(runs: Sequence[Run]) -> set[tuple[str, int]]:
    return {
        (run["arm"], run["seed"])
        for run in runs
        if run["calls"] == MAY_STOP_AT and run["gap"] > MAY_STOP_OVER and run["arm"].startswith("screening")
    }


def _by_arm(jobs: Sequence[Job]) -> list[str]:
    """Gather jobs into one line an arm: calls and, in brackets, seeds."""
    found: dict[tuple[str, str], dict[int, list[int]]] = {}
    for world, arm, calls, seed in jobs:
        found.setdefault((world, arm), {}).setdefault(calls, []).append(seed)
    return [
        f"p = {world}, {arm}, not run: {', '.join(f'{calls} calls ({_seeds(s)})' for calls, s in by_calls.items())}."
        for (world, arm), by_calls in found.items()
    ]


def _seeds(seeds: Sequence[int]) -> str:
    if sorted(seeds) == list(SEEDS):
        return "all seeds"
    return f"seed{'s' if len(seeds) > 1 else ''} {' '.join(map(str, sorted(seeds)))}"
