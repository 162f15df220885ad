"""What a run may spend at most, in calls, looks and money: for people who look before they pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from evolvedirector.errors import UserError
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.judge_health import MAX_PULSES
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.policies.policy import Policy, RunSize
from evolvedirector.records.part import Priced, price_of, requests_in_flight_of

Rows: TypeAlias = dict[str, str]


@dataclass(frozen=True, slots=True)
class Reader:
    """A judge that reads figures.

    Args:
        who: Where it stands, as `EvaluationCallback.suites.held_out.reader`.
        judge: `Priced` by the look, or free.
        looks: Most looks of the whole run. None: nothing bounds them.
    """

    who: str
    judge: object
    looks: int | None

    @property
    def price_usd(self) -> float | None:
        """Return the price of a look: 0 for one that works here, None for one whose price nobody knows."""
        return price_of(self.judge)

    @property
    def costs_nothing(self) -> bool:
        """Whether it works here and for nothing."""
        return self.price_usd == 0.0 and requests_in_flight_of(self.judge) == 0

    def most_usd(self) -> float | None:
        """Return the most its looks may cost in USD; None where a price or an end is missing."""
        if self.price_usd == 0.0:
            return 0.0
        return None if self.price_usd is None or self.looks is None else self.looks * self.price_usd


def figures_rows(
    readers: Sequence[Reader], images_usd: Mapping[str, float | None], evolution_usd: float | None
) -> Rows:
    """Say what the figures may cost beside evolution, reader by reader, and what all of it comes to.

    Args:
        readers: Of all callbacks that measure; those that cost nothing are left out.
        images_usd: Most that the teacher images of a callback may cost, by its name. None: a price is missing.
        evolution_usd: Most that images and looks of evolution may cost. None: a price or a limit is missing.
    """
    rows: Rows = {}
    for reader in readers:
        if reader.costs_nothing:
            continue
        rows[f"looks of {reader.who} (outside the budget)"] = _looks_row(reader)
    for who, cost in images_usd.items():
        said = "not known: a price is missing" if cost is None else f"{cost:,.2f} USD"
        rows[f"images of {who} (most, once, outside the budget)"] = said
    if rows:
        parts = [*(reader.most_usd() for reader in readers), *images_usd.values(), evolution_usd]
        known = [part for part in parts if part is not None]
        all_known = len(known) == len(parts)
        total = f"{sum(known):,.2f} USD" if all_known else "not known: a price or a limit is missing above"
        rows["cost in all (most)"] = f"{total}; a hosted writer comes on top" if all_known else total
    return rows


def _looks_row(reader: Reader) -> str:
    price, most = reader.price_usd, reader.most_usd()
    looks = "not bounded" if reader.looks is None else f"at most {reader.looks:,}"
    if price is None:
        return f"{looks}, price of a look unknown: set its cost_usd_per_look"
    if price == 0.0:
        return looks
    return f"{looks}, {price:.4g} USD each" if most is None else f"{looks} x {price:.4g} USD = {most:,.2f} USD"


LOOKS_PER_CANARY = 6


def price_usd_of(name: str, teacher: object, budget: Budget) -> float | None:
    """Return what an image of a teacher costs at most; None where nobody says it.

    Args:
        name: Its name in the run.
        teacher: `Priced`, or free.
        budget: May list a price, which is charged where a reply carries none.
    """
    told = teacher.price_usd() if isinstance(teacher, Priced) else None
    known = [price for price in (told, (budget.prices_usd or {}).get(name)) if price is not None]
    return max(known, default=None)


def told_prices_usd(teachers: Mapping[str, object]) -> dict[str, float]:
    """Collect what teachers say an image of theirs costs; those who say nothing are left out.

    Args:
        teachers: By name.
    """
    told = {name: price_usd_of(name, teacher, Budget()) for name, teacher in teachers.items()}
    return {name: price for name, price in told.items() if price is not None}


def is_free(teacher: object) -> bool:
    """Whether a teacher costs no money as far as it says itself: it knows nothing of prices, as a local model."""
    return not isinstance(teacher, Priced)


def with_look_price(budget: Budget, judge: object) -> Budget:
    """Return the limits with the price of a look that the judge knows, where the budget names none.

    Args:
        budget: The limits.
        judge: `Priced` by the look, or free.
    """
    price = None if budget.price_per_look_usd else price_of(judge)
    return replace(budget, price_per_look_usd=price) if price else budget


def check_prices(budget: Budget, teachers: Mapping[str, object], judge: object = None) -> None:
    """Refuse a limit of money where a price is known to nobody: the limit could not be kept.

    Args:
        budget: The limits.
        teachers: By name.
        judge: `Priced` by the look, or free.

    Raises:
        UserError: `price_usd()` of a part knows no price, and the budget lists none.
    """
    if budget.budget_cost_usd is None:
        return
    if _is_unpriced(judge, budget):
        raise UserError(
            f"budget_cost_usd is {budget.budget_cost_usd:g}, but the price of a look of {type(judge).__name__} is "
            "unknown, so the limit could not be kept. Every part needs a price where money is limited. Write "
            "`budget: {price_per_look_usd: 0.0005}` with your provider's price, or `cost_usd_per_look: 0` in a judge "
            "of your own."
        )
    unknown = [
        name
        for name, teacher in teachers.items()
        if not is_free(teacher) and price_usd_of(name, teacher, budget) is None
    ]
    if unknown:
        line = ", ".join(f"{name}: 0.04" for name in unknown)
        raise UserError(
            f"budget_cost_usd is {budget.budget_cost_usd:g}, but the price of an image by {', '.join(unknown)} is "
            "unknown, so the limit could not be kept. Every teacher needs a price where money is limited. Write "
            f"`budget: {{prices_usd: {{{line}}}}}` with your provider's prices, or `cost_usd_per_image` in the teacher."
        )


def most_cost_usd(budget: Budget, teachers: Mapping[str, object]) -> float | None:
    """Return the most that the images of a run may cost; None where a price or a limit is missing.

    The dearest teacher is taken to draw as much as it may, then the next one.

    Args:
        budget: The limits.
        teachers: By name.
    """
    calls = budget.budget_teacher_calls
    own = budget.teacher_budgets or {}
    priced = {name: price_usd_of(name, part, budget) for name, part in teachers.items()}
    cost, left = 0.0, calls
    for name in sorted(teachers, key=lambda key: -(priced[key] or 0.0)):
        price = priced[name]
        most = own.get(name) if left is None else min(left, own.get(name, left))
        if price is None and not is_free(teachers[name]):
            return budget.budget_cost_usd
        if price and most is None:
            return budget.budget_cost_usd
        cost += (price or 0.0) * (most or 0)
        left = None if left is None or most is None else left - most
    return cost if budget.budget_cost_usd is None else min(cost, budget.budget_cost_usd)


def most_looks(policy: Policy, budget: Budget, size: RunSize, health: JudgeHealth | None) -> int | None:
    """Return the most looks that a run may ask of its judge; None where nothing bounds them.

    Args:
        policy: Says what it may ask.
        budget: The limits.
        size: Of the run.
        health: Canaries and gold at the start of each round; None asks none.
    """
    limits = [budget.budget_judge_calls] if budget.budget_judge_calls is not None else []
    asked = policy.most_looks(size)
    if asked is not None and size.rounds is not None:
        limits.append(asked + _health_looks(health, size.rounds))
    return min(limits, default=None)


def plan_of_spending(budget: Budget, teachers: Mapping[str, object]) -> Rows:
    """Say in words what a budget lets a run spend at most, teacher by teacher.

    Args:
        budget: The limits.
        teachers: By name.
    """
    calls, own = budget.budget_teacher_calls, budget.teacher_budgets or {}
    if set(own) >= set(teachers):
        calls = sum(own.values()) if calls is None else min(calls, sum(own.values()))
    rows = {"teacher calls (most)": "no limit" if calls is None else f"{calls:,}"}
    for name, teacher in teachers.items():
        most = [limit for limit in (calls, own.get(name)) if limit is not None]
        rows[f"  {name}"] = _teacher_row(min(most, default=None), price_usd_of(name, teacher, budget), teacher, name)
    looks = budget.budget_judge_calls
    rows["judge calls (most)"] = "no limit of its own" if looks is None else f"{looks:,}"
    cost = most_cost_usd(budget, teachers)
    known = f"{cost:,.2f} USD for images; hosted judges and writers come on top" if cost is not None else ""
    rows["cost (most)"] = known or "no limit: set budget_cost_usd, or limits and prices"
    return rows


def most_spent_usd(looks: int | None, budget: Budget, teachers: Mapping[str, object], judge: object) -> float | None:
    """Return the most that images and looks of evolution may cost; None where a price or a limit is missing.

    Args:
        looks: As `most_looks` counts them.
        budget: The limits, with the price of a look.
        teachers: By name.
        judge: `Priced` by the look, or free; None from it is an unknown price.
    """
    price, images = budget.price_per_look_usd, most_cost_usd(budget, teachers)
    if images is None or (price and looks is None) or _is_unpriced(judge, budget):
        return budget.budget_cost_usd
    both = images + (looks or 0) * price
    return both if budget.budget_cost_usd is None else min(both, budget.budget_cost_usd)


def _is_unpriced(judge: object, budget: Budget) -> bool:
    """Whether a judge costs money, and nobody says how much."""
    return not budget.price_per_look_usd and price_of(judge) is None


def looks_rows(looks: int | None, budget: Budget, teachers: Mapping[str, object], judge: object = None) -> Rows:
    """Say how many looks a run may take, and what they and the images cost together.

    Args:
        looks: As `most_looks` counts them.
        budget: The limits, with the price of a look.
        teachers: By name.
        judge: `Priced` by the look, or free; None from it is an unknown price.
    """
    price, unknown = budget.price_per_look_usd, ", price of a look unknown: set budget.price_per_look_usd"
    each = f" x {price:.4g} USD" if price else unknown * _is_unpriced(judge, budget)
    if looks is None:
        return {"judge calls (most)": f"unbounded: set budget_judge_calls{each.replace(' x', ', each')}"}
    bound = "budget_judge_calls" if looks == budget.budget_judge_calls else "by what the policy may ask at most"
    total = f" = {looks * price:,.2f} USD" if price else ""
    rows = {"judge calls (most)": f"{looks:,}{each}{total} ({bound})"}
    cost = most_spent_usd(looks, budget, teachers, judge)
    if price and cost is not None:
        rows["cost (most)"] = f"{cost:,.2f} USD for images and looks; a hosted writer comes on top"
    return rows


def _teacher_row(most: int | None, price: float | None, teacher: object, name: str) -> str:
    count = "any number of images" if most is None else f"at most {most:,} images"
    if price is None:
        free = "no price: nothing is charged" if is_free(teacher) else f"price unknown: set budget.prices_usd.{name}"
        return f"{count}, {free}"
    return f"{count} x {price:.4g} USD" + ("" if most is None else f" = {most * price:,.2f} USD")


def _health_looks(health: JudgeHealth | None, rounds: int) -> int:
    if health is None:
        return 0
    gold = len(health.gold.items()) if health.gold is not None else 0
    of_round = (LOOKS_PER_CANARY + health.overlay_canaries) * health.canaries_per_round
    asks = gold > 0 or of_round > 0
    return gold + (1 + rounds) * max(of_round, MAX_PULSES * asks)  # the seeds' purchase asks, too
