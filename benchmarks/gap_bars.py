"""The bars set before any run of the gap benchmark: held, not held or not run; and the law beside them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gap_calls import (
    STATIC,
    Figure,
    Run,
    interval,
    median_of,
    paired,
    prices,
    prices_of_better,
    reached,
    reached_by_better,
    said,
    share_of,
)
from benchmarks.gap_plan import SEEDS, WORLDS

LEVEL = 0.8
EXACT, ERRING = "screening", "screening, 20 % wrong looks"


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit on a ratio at `LEVEL`, median over seeds.

    Args:
        world: Where.
        arm: Whose.
        limit: The ratio must not be over it.
        of_price: The total price, which must be below the limit, in place of calls.
    """

    world: str
    arm: str
    limit: float
    of_price: bool = False


BARS = (
    Bar("1/3", EXACT, 0.8),
    Bar("1/10", EXACT, 2 / 10),
    Bar("1/20", EXACT, 3 / 20),
    Bar("1/3", ERRING, 1.0),
    Bar("1/10", ERRING, 4 / 10),
    Bar("1/20", ERRING, 6 / 20),
    Bar("1/10", ERRING, 0.5, of_price=True),
    Bar("1/20", ERRING, 0.5, of_price=True),
)


def bar_table(runs: Sequence[Run]) -> list[str]:
    """Return each bar, its figure with interval, and whether it is held.

    Args:
        runs: Finished runs.
    """
    lines = [
        f"| bar at {LEVEL:g} of the gap, shipped defaults | p | limit | median [interval] | seeds | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for bar in BARS:
        what = "total price" if bar.of_price else "calls"
        figures = _figures(runs, bar)
        limit = f"{'<' if bar.of_price else '<='} {bar.limit:g}"
        cells = f"{limit} | {said(figures)} | {len(figures)} | {_marked(_verdict(figures, bar), runs, bar.world)}"
        lines.append(f"| {bar.arm}: {what} beside the better static arm | {bar.world} | {cells} |")
    for world in WORLDS:
        for arm in (EXACT, ERRING):
            figures = paired(reached(runs, world, arm, LEVEL), reached(runs, world, STATIC[0], LEVEL))
            cells = f"not over 1 | {said(figures)} | {len(figures)} | {_marked(_no_worse(figures), runs, world)}"
            lines.append(f"| {arm}: calls beside static even | {world} | {cells} |")
    lines.append("| the same in the world that starts from nothing | - | not over 1 | - | 0 | not run here |")
    return lines


def law_table(runs: Sequence[Run]) -> list[str]:
    """Return the measured ratio beside p: with an exact judge it should approach p.

    Or less, where an even set never learns the gap at all.

    Args:
        runs: Finished runs.
    """
    lines = [
        f"| p | p, as a number | calls to {LEVEL:g}, exact judge, beside static even | in p | beside the better static"
        " arm | in p |",
        "|---|---|---|---|---|---|",
    ]
    for world in WORLDS:
        p, own = share_of(world), reached(runs, world, EXACT, LEVEL)
        cells = []
        for rival in (reached(runs, world, STATIC[0], LEVEL), reached_by_better(runs, world, LEVEL)):
            figures = paired(own, rival)
            cells += [said(figures), _in_p(figures, p)]
        lines.append(f"| {_marked(world, runs, world)} | {p:.3f} | {' | '.join(cells)} |")
    return lines


def _figures(runs: Sequence[Run], bar: Bar) -> list[Figure]:
    own: Mapping[int, Figure]
    if bar.of_price:
        own, rival = prices(runs, bar.world, bar.arm, LEVEL), prices_of_better(runs, bar.world, LEVEL)
    else:
        own, rival = reached(runs, bar.world, bar.arm, LEVEL), reached_by_better(runs, bar.world, LEVEL)
    return paired(own, rival)


def _verdict(figures: Sequence[Figure], bar: Bar) -> str:
    """Compare a median with its limit."""
    if not figures:
        return "not run"
    middle = median_of(figures)
    under = middle.value < bar.limit if bar.of_price else middle.value <= bar.limit
    return _of_seeds(_decided(middle, under), figures)


def _no_worse(figures: Sequence[Figure]) -> str:
    if not figures:
        return "not run"
    if len(figures) == 1:
        return _of_seeds("undecided: no interval", figures)
    low, _ = interval([figure.value for figure in figures])
    return _of_seeds(_decided(median_of(figures), low <= 1), figures)


def _decided(middle: Figure, is_held: bool) -> str:
    """Say what a median shows; a bound decides only where it points away from the limit."""
    decided = {"": True, "<=": is_held, ">=": not is_held, "~": False}[middle.bound]
    return "undecided: a bound" if not decided else "held" if is_held else "not held"


def _of_seeds(verdict: str, figures: Sequence[Figure]) -> str:
    """Say how far a verdict reaches where not all seeds were run."""
    if len(figures) >= len(SEEDS):
        return verdict
    return f"not decided: {verdict} so far, {len(figures)} of {len(SEEDS)} seeds"


def _marked(text: str, runs: Sequence[Run], world: str) -> str:
    """Mark what comes from a base below the gate."""
    below = any(run["world"] == world and not run["base"]["reached"] for run in runs)
    return f"{text}, below the gate" if below else text


def _in_p(figures: Sequence[Figure], p: float) -> str:
    if not figures:
        return "-"
    middle = median_of(figures)
    return f"{middle.bound} {middle.value / p:.2g} p".strip()
