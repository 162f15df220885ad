"""The report of the gap benchmark: one block of tables a world, after what was held and what was not run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from benchmarks.gap_bars import bar_table, law_table
from benchmarks.gap_calls import (
    STATIC,
    Run,
    curves,
    interval,
    paired,
    prices,
    prices_of_better,
    reached,
    reached_by_better,
    said,
    share_of,
)
from benchmarks.gap_plan import GATE, SEEDS, not_run
from evolvedirector.evaluation.intervals import wilson_interval

LEVELS = (0.5, 0.8, 0.95)


def report(runs: Sequence[Run], arms: Sequence[str] = (), seeds: Sequence[int] = SEEDS) -> str:
    """Return every table of the runs that were run; nothing else is printed.

    Args:
        runs: Finished runs.
        arms: Names of all arms, to say which of them were not run.
        seeds: Those fixed before any run; runs of others are trials and are left out.
    """
    fixed = [run for run in runs if run["seed"] in seeds]
    if not fixed:
        return "No run is finished yet."
    lines = ["## Bars", "", *bar_table(fixed), "", "## Ratio beside p", "", *law_table(fixed), ""]
    for world in dict.fromkeys(run["world"] for run in fixed):
        lines += [f"## p = {world}", "", base_line(fixed, world), ""]
        for table in TABLES:
            lines += [*table(fixed, world), ""]
    lines += ["## Not run", "", *(f"- {line}" for line in not_run(fixed, arms))]
    if len(fixed) < len(runs):
        lines.append(f"- {len(runs) - len(fixed)} runs are left out: their seeds were not fixed in advance.")
    return "\n".join(lines)


def base_line(runs: Sequence[Run], world: str) -> str:
    """Say how well the bases drew what they know, and whether they passed the gate."""
    bases = {run["seed"]: run["base"] for run in runs if run["world"] == world}
    known, below = [base["known"] for base in bases.values()], [s for s, base in bases.items() if not base["reached"]]
    gate = f"; BELOW THE GATE of {GATE:g}: seeds {' '.join(map(str, sorted(below)))}" if below else ""
    return (
        f"Bases of {len(bases)} seeds: known prompts {min(known):.3f} to {max(known):.3f} right{gate}; "
        f"the gap {max(base['gap'] for base in bases.values()):.2f} at most."
    )


def accuracy_table(runs: Sequence[Run], world: str) -> list[str]:
    """Return accuracy on the gap over calls, one row an arm: mean over seeds, least and most."""
    return _over_calls("gap drawn right, calls", curves(runs, world))


def everything_table(runs: Sequence[Run], world: str) -> list[str]:
    """Return accuracy on all prompts of the writer over calls: p of them in the gap, the others not."""
    p, known = share_of(world), curves(runs, world, "known")
    everything = {
        arm: {
            seed: {calls: p * gap + (1 - p) * known[arm][seed][calls] for calls, gap in curve.items()}
            for seed, curve in seeds.items()
        }
        for arm, seeds in curves(runs, world).items()
    }
    return _over_calls("all prompts drawn right, calls", everything)


def ratio_table(runs: Sequence[Run], world: str) -> list[str]:
    """Return calls to each level, and their ratio to each static arm and to the better of the two, paired by seed."""
    lines = [
        "| arm | level | seeds | calls, median | ratio to even | ratio to drawn by loss | ratio to the better |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in curves(runs, world):
        for level in LEVELS:
            own = reached(runs, world, arm, level)
            rivals = [reached(runs, world, name, level) for name in STATIC] + [reached_by_better(runs, world, level)]
            cells = [said(list(own.values()), with_interval=False), *(said(paired(own, rival)) for rival in rivals)]
            lines.append(f"| {arm} | {level:g} | {len(own)} | {' | '.join(cells)} |")
    return lines


def price_table(runs: Sequence[Run], world: str) -> list[str]:
    """Return the total price to each level, looks included, and its ratio to the better static arm's."""
    titles = [cell for level in LEVELS for cell in (f"USD to {level:g}, median", "ratio to the better static arm")]
    lines = [f"| arm | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for arm in curves(runs, world):
        cells = []
        for level in LEVELS:
            own = prices(runs, world, arm, level)
            cells += [said(list(own.values()), with_interval=False)]
            cells += [said(paired(own, prices_of_better(runs, world, level)))]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def rest_table(runs: Sequence[Run], world: str) -> list[str]:
    """Return what each arm loses of the rest, beside its base and beside static even at equal calls, with a verdict."""
    of_world = [run for run in runs if run["world"] == world]
    even = {(run["calls"], run["seed"]): run["known"] for run in of_world if run["arm"] == STATIC[0]}
    lines = ["| arm | seeds | the rest beside its base | beside static even | verdict |", "|---|---|---|---|---|"]
    for arm in curves(runs, world):
        own = [run for run in of_world if run["arm"] == arm]
        to_base, seeds = _change(own, lambda run: run["base"]["known"])
        to_even, _ = _change(own, lambda run: even.get((run["calls"], run["seed"])))
        lines.append(f"| {arm} | {seeds} | {_signed(to_base)} | {_signed(to_even)} | {_verdict(to_base, to_even)} |")
    return lines


def spending_table(runs: Sequence[Run], world: str) -> list[str]:
    """Return means by arm and budget: share bought in the gap, looks, price, accuracy of the rest, time of a core."""
    lines = [
        "| arm | calls | seeds | bought in the gap | looks | USD | the rest | seconds of a core |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if run["world"] == world:
            groups.setdefault((run["arm"], run["calls"]), []).append(run)
    for (arm, calls), found in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1])):
        bought = sum(run["bought"] for run in found)
        share = sum(run["bought_in_gap"] for run in found) / bought if bought else 0.0
        looks, usd, known, seconds = (mean(run[n] for run in found) for n in ("looks", "cost_usd", "known", "seconds"))
        cells = f"{len(found)} | {share:.2f} | {looks:,.0f} | {usd:.2f} | {known:.3f} | {seconds:.0f}"
        lines.append(f"| {arm} | {calls} | {cells} |")
    return lines


def hidden_table(runs: Sequence[Run], world: str) -> list[str]:
    """Return, per arm and round, the share of candidates that need a hidden word: does expansion find the gap?

    Children, mutations and both, with 95 % intervals, over all seeds and budgets; rounds without a look are left out.
    With an exact judge these are the candidates that fail, but for those that a student draws right by now.
    """
    counts: dict[str, dict[int, list[int]]] = {}
    for run in runs:
        for place, row in enumerate(run["rounds"] if run["world"] == world else ()):
            if row["screened"]:
                both = (row["screened"], row["hidden"], row["children"], row["hidden_children"])
                sums = counts.setdefault(run["arm"], {}).setdefault(place, [0, 0, 0, 0])
                counts[run["arm"]][place] = [old + new for old, new in zip(sums, both, strict=True)]
    if not counts:
        return ["No candidate was looked at."]
    lines = ["| gap's share of candidates, arm | round | all | of children | of mutations |", "|---|---|---|---|---|"]
    for arm, by_round in counts.items():
        for place, (screened, hidden, children, of_children) in sorted(by_round.items()):
            cells = [
                _share(hidden, screened),
                _share(of_children, children),
                _share(hidden - of_children, screened - children),
            ]
            lines.append(f"| {arm} | {place + 1} | {' | '.join(cells)} |")
    return lines


def _over_calls(title: str, by_arm: Mapping[str, Mapping[int, Mapping[int, float]]]) -> list[str]:
    budgets = sorted({calls for seeds in by_arm.values() for curve in seeds.values() for calls in curve})
    lines = [f"| {title} | {' | '.join(map(str, budgets))} |", "|---" * (len(budgets) + 1) + "|"]
    for arm, seeds in by_arm.items():
        cells = []
        for calls in budgets:
            values = [curve[calls] for curve in seeds.values() if calls in curve]
            cells.append(f"{mean(values):.2f} ({min(values):.2f}-{max(values):.2f})" if values else "-")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


Change = tuple[float, float, float]
"""Mean over seeds, and its 95 % interval."""


def _change(runs: Sequence[Run], beside: Callable[[Run], float | None]) -> tuple[Change | None, int]:
    """Return how accuracy on the rest differs, a mean over budgets for each seed, and the number of seeds."""
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        other = beside(run)
        if other is not None:
            by_seed.setdefault(run["seed"], []).append(run["known"] - other)
    means = [mean(values) for values in by_seed.values()]
    return ((mean(means), *interval(means, of_mean=True)) if means else None), len(means)


def _signed(change: Change | None) -> str:
    return "-" if change is None else f"{change[0]:+.3f} [{change[1]:+.3f}, {change[2]:+.3f}]"


def _verdict(*changes: Change | None) -> str:
    """Say that the rest is lost where an interval lies below 0."""
    names = [name for name, c in zip(("its base", "static even"), changes, strict=True) if c is not None and c[2] < 0]
    return f"loses beside {' and '.join(names)}" if names else "no loss over the interval"


def _share(part: int, whole: int) -> str:
    found = wilson_interval(part, whole)
    return "-" if found is None else f"{part / whole:.2f} [{found[0]:.2f}, {found[1]:.2f}] ({part} of {whole})"


TABLES = (accuracy_table, everything_table, ratio_table, price_table, rest_table, spending_table, hidden_table)
"""Of each world, in this order."""
