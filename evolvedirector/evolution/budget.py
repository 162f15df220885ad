"""Limits on what evolution may spend, and what they leave for one round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from evolvedirector.records import Allowance
from evolvedirector.store.ledger import Spend


@dataclass(frozen=True, slots=True)
class Budget:
    """Limit what evolution may spend over the life of a dataset root; None is unlimited.

    The published rule grows without bound once teachers win over 23.1 % of looks (expected change per round
    0.2 N (3.9 p - 0.9)), so every policy runs inside a budget. Lost submissions count as spent.

    Args:
        budget_teacher_calls: Images asked of teachers, refusals included. 0 trains only and judges nothing.
        budget_judge_calls: Looks asked of the judge.
        budget_cost_usd: Money, as the teachers report it.
        teacher_calls_per_round: Images asked of teachers in one round; the seeds are not a round.
        teacher_calls_per_lineage: Images asked of teachers for one seed and all its descendants.

    Raises:
        ValueError: A limit is negative.
    """

    budget_teacher_calls: int | None = None
    budget_judge_calls: int | None = None
    budget_cost_usd: float | None = None
    teacher_calls_per_round: int | None = None
    teacher_calls_per_lineage: int | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and value < 0:
                raise ValueError(
                    f"{limit.name} is {value}. Allowed: 0 or more, or null for no limit. "
                    f"Write `{limit.name}: 0` to spend nothing."
                )

    @property
    def buys_nothing(self) -> bool:
        """Whether no teacher may ever be asked: training only, nothing judged."""
        return self.budget_teacher_calls == 0


def _least(*limits: int | float | None) -> int | float | None:
    known = [limit for limit in limits if limit is not None]
    return max(0, min(known)) if known else None


def allowance_of(budget: Budget, spent: Spend, spent_in_round: Spend) -> Allowance:
    """Say what a round may still spend: the tightest of the total and the per-round limits, never below 0.

    Args:
        budget: The limits.
        spent: Everything spent so far under this root.
        spent_in_round: The part of it that this round spent (a repeated round has spent some already).
    """

    def left(limit: int | float | None, used: int | float) -> int | float | None:
        return None if limit is None else limit - used

    teacher = _least(
        left(budget.budget_teacher_calls, spent.teacher_calls),
        left(budget.teacher_calls_per_round, spent_in_round.teacher_calls),
    )
    judge = _least(left(budget.budget_judge_calls, spent.judge_calls))
    cost = _least(left(budget.budget_cost_usd, spent.cost_usd))
    return Allowance(
        teacher_calls=None if teacher is None else int(teacher),
        judge_calls=None if judge is None else int(judge),
        cost_usd=None if cost is None else float(cost),
    )


def plan_of_spending(budget: Budget, teachers: Mapping[str, object], max_rounds: int | None) -> dict[str, str]:
    """Say in words what a budget lets a run spend at most, for people who look before they pay.

    Args:
        budget: The limits.
        teachers: By name; one that carries `cost_usd_per_image` makes the cost known.
        max_rounds: Rounds in all; None is not known.
    """
    calls = budget.budget_teacher_calls
    prices = [price for t in teachers.values() if (price := getattr(t, "cost_usd_per_image", None)) is not None]
    cost = budget.budget_cost_usd
    if calls is not None and len(prices) == len(teachers):
        dearest = calls * max(prices)
        cost = dearest if cost is None else min(cost, dearest)
    looks = "no limit" if budget.budget_judge_calls is None else f"{budget.budget_judge_calls:,}"
    if budget.budget_judge_calls is None and calls is not None and max_rounds is not None:
        looks += (
            f" set; {max_rounds} rounds of two orders over at most {calls:,} prompts are {2 * max_rounds * calls:,}"
        )
    return {
        "teacher calls (most)": "no limit" if calls is None else f"{calls:,}",
        "judge calls (most)": looks,
        "cost (most)": "no limit" if cost is None else f"{cost:,.2f} USD",
    }
