"""Calls until the gap is drawn right, as ratios with intervals over seeds. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

STATIC = ("static even", "static even, drawn by loss")
Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, or a bound of it.

    Args:
        value: What was measured; the largest budget run where a level is never reached, the least where it is at once.
        bound: `<=` or `>=` where the value is such a bound; `~` where it rests on bounds that contradict; else empty.
    """

    value: float
    bound: str = ""


def share_of(world: str) -> float:
    """Return p of a world by its name, which ends in it: 1/20 is .05."""
    numerator, denominator = world.split()[-1].split("/")
    return int(numerator) / int(denominator)


def calls_to(level: float, curve: Mapping[int, float]) -> Figure | None:
    """Interpolate over log calls where a curve first reaches a level; None without a curve.

    Between budgets a < b with accuracies below and from the level on:
    log c = log a + (level - acc_a) / (acc_b - acc_a) (log b - log a).
    Where the largest budget run does not reach it, that one counts, as a bound: 384 only if 384 was run.

    Args:
        level: Accuracy to reach.
        curve: Accuracy by teacher calls.
    """
    budgets = sorted(curve)
    if not budgets:
        return None
    if curve[budgets[0]] >= level:
        return Figure(float(budgets[0]), "<=")
    for low, high in itertools.pairwise(budgets):
        if curve[high] >= level:
            part = (level - curve[low]) / (curve[high] - curve[low])
            return Figure(math.exp(math.log(low) + part * (math.log(high) - math.log(low))))
    return Figure(float(budgets[-1]), ">=")


def price_at(calls: Figure, costs: Mapping[int, float]) -> Figure:
    """Interpolate what so many calls cost, looks included, between the budgets that were run.

    Args:
        calls: Between the least and the largest budget.
        costs: USD by teacher calls.
    """
    budgets = sorted(costs)
    high = next((budget for budget in budgets if budget >= calls.value), budgets[-1])
    low = max((budget for budget in budgets if budget <= calls.value), default=high)
    part = 0.0 if high == low else (calls.value - low) / (high - low)
    return Figure(costs[low] + part * (costs[high] - costs[low]), calls.bound)


def ratio(first: Figure, second: Figure) -> Figure:
    """Divide; a bound of either makes the ratio one, and two that contradict make it no figure at all (`~`)."""
    kinds = {first.bound, {"<=": ">=", ">=": "<="}.get(second.bound, second.bound)} - {""}
    return Figure(first.value / second.value, "" if not kinds else kinds.pop() if len(kinds) == 1 else "~")


def better(first: Figure | None, second: Figure | None) -> Figure | None:
    """Return the fewer calls of two static arms; the one there is where only one was run.

    One that was not reached may yet need fewer than the other did need: then the other's calls are an upper bound.
    """
    found = [figure for figure in (first, second) if figure is not None]
    if len(found) < 2:
        return found[0] if found else None
    least, other = sorted(found, key=lambda figure: figure.value)
    if least.bound == ">=" and other.bound != ">=":
        return Figure(other.value, "" if other.value == least.value else "<=")
    return least


def median_of(figures: Sequence[Figure]) -> Figure:
    """Return the median, as a bound where it rests on one (the middle one, or one of the middle two)."""
    ordered = sorted(figures, key=lambda figure: figure.value)
    near = {figure.bound for figure in ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]} - {""}
    sign = "" if not near else near.pop() if len(near) == 1 else "~"
    return Figure(median(figure.value for figure in figures), sign)


def interval(values: Sequence[float], of_mean: bool = False, seed: int = 0, draws: int = 4_000) -> tuple[float, float]:
    """Return the 95 % interval of a median over seeds, by drawing seeds again (percentile bootstrap, Efron 1979).

    Args:
        values: One per seed.
        of_mean: Of the mean in place of the median.
        seed: Of the draws.
        draws: How many.
    """
    again = np.random.default_rng(seed).choice(np.asarray(values), (draws, len(values)))
    middles = np.sort(again.mean(1) if of_mean else np.median(again, axis=1))
    return float(middles[int(0.025 * draws)]), float(middles[int(0.975 * draws)])


def curves(runs: Iterable[Run], world: str, figure: str = "gap") -> dict[str, dict[int, dict[int, float]]]:
    """Return a figure by arm, seed and calls.

    Args:
        runs: Finished runs.
        world: Of which.
        figure: `gap`, `known`, `looks`, `cost_usd`.
    """
    found: dict[str, dict[int, dict[int, float]]] = {}
    for run in runs:
        if run["world"] == world:
            found.setdefault(run["arm"], {}).setdefault(run["seed"], {})[run["calls"]] = run[figure]
    return found


def reached(runs: Sequence[Run], world: str, arm: str, level: float) -> dict[int, Figure]:
    """Return the calls to a level by seed, for an arm that was run."""
    by_seed = {seed: calls_to(level, curve) for seed, curve in curves(runs, world).get(arm, {}).items()}
    return {seed: figure for seed, figure in by_seed.items() if figure is not None}


def reached_by_better(runs: Sequence[Run], world: str, level: float) -> dict[int, Figure]:
    """Return, seed by seed, the calls of the static arm that needs fewer."""
    first, second = (reached(runs, world, arm, level) for arm in STATIC)
    both = {seed: better(first.get(seed), second.get(seed)) for seed in sorted({*first, *second})}
    return {seed: figure for seed, figure in both.items() if figure is not None}


def prices(runs: Sequence[Run], world: str, arm: str, level: float) -> dict[int, Figure]:
    """Return the price in USD of the calls to a level, looks included, by seed."""
    costs = curves(runs, world, "cost_usd").get(arm, {})
    return {seed: price_at(calls, costs[seed]) for seed, calls in reached(runs, world, arm, level).items()}


def prices_of_better(runs: Sequence[Run], world: str, level: float) -> dict[int, Figure]:
    """Return, seed by seed, the price of the static arm that needs fewer calls: static arms look at nothing."""
    first, second = (prices(runs, world, arm, level) for arm in STATIC)
    both = {seed: better(first.get(seed), second.get(seed)) for seed in sorted({*first, *second})}
    return {seed: figure for seed, figure in both.items() if figure is not None}


def paired(own: Mapping[int, Figure], rival: Mapping[int, Figure]) -> list[Figure]:
    """Return own / rival of each seed that both were run with."""
    return [ratio(figure, rival[seed]) for seed, figure in own.items() if seed in rival]


def said(figures: Sequence[Figure], with_interval: bool = True) -> str:
    """Write a median with its interval; as a bound where it rests on one, with the number of such seeds."""
    if not figures:
        return "-"
    middle = median_of(figures)
    text = f"{middle.bound} {middle.value:.3g}".strip()
    if with_interval and len(figures) > 1:
        low, high = interval([figure.value for figure in figures])
        text += f" [{low:.3g}, {high:.3g}]"
    marked = sum(bool(figure.bound) for figure in figures)
    return text + (f" ({marked} of {len(figures)} bounds)" if marked else "")
