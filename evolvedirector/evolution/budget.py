"""Limits on what evolution may spend, and what they leave for one round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from evolvedirector.errors import UserError
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
        budget_cost_usd: Money, as the teachers report it, and the looks at their price.
        teacher_calls_per_round: Images asked of teachers in one round; the seeds are not a round.
        teacher_calls_per_lineage: Images asked of teachers for one seed and all its descendants.
        teacher_budgets: Images asked of single teachers, by name; a teacher whose own budget is spent is passed over.
            A teacher not named has no limit of its own; None limits none.
        prices_usd: Price of an image by teacher name, charged where a reply carries no cost; None charges nothing.
        price_per_look_usd: Price of a look, charged when it is asked; 0 for a judge of your own.

    Raises:
        UserError: A limit or a price is negative.
    """

    budget_teacher_calls: int | None = None
    budget_judge_calls: int | None = None
    budget_cost_usd: float | None = None
    teacher_calls_per_round: int | None = None
    teacher_calls_per_lineage: int | None = None
    teacher_budgets: dict[str, int] | None = None
    prices_usd: dict[str, float] | None = None
    price_per_look_usd: float = 0.0

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            named = {f".{name}": part for name, part in value.items()} if isinstance(value, dict) else {"": value}
            for suffix, part in named.items():
                if part is not None and not part >= 0:  # NaN is no limit either
                    raise UserError(
                        f"{limit.name}{suffix} is {part}. Allowed: 0 or more, or null for no limit. "
                        f"Write `{limit.name}{suffix}: 0` to spend nothing."
                    )

    @property
    def buys_nothing(self) -> bool:
        """Whether no teacher may ever be asked: training only, nothing judged."""
        return self.budget_teacher_calls == 0


def check_teacher_names(budget: Budget, names: Iterable[str]) -> None:
    """Refuse a budget that speaks of teachers who are not there: a limit with a typing mistake would limit nobody.

    Args:
        budget: The limits.
        names: Teachers of the run.

    Raises:
        UserError: `teacher_budgets` or `prices_usd` names an unknown teacher.
    """
    known = list(names)
    for field, table in (("teacher_budgets", budget.teacher_budgets), ("prices_usd", budget.prices_usd)):
        unknown = sorted(set(table or {}) - set(known))
        if unknown:
            raise UserError(
                f"{field} names {', '.join(map(repr, unknown))}, but no teacher is called so. "
                f"Allowed: {', '.join(known)}. Write one of these names under `{field}`, or add the teacher."
            )


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
    cost = _least(left(budget.budget_cost_usd, spent.cost_usd))
    paid_looks = None
    if cost is not None and budget.price_per_look_usd > 0:
        paid_looks = int(cost / budget.price_per_look_usd + 1e-9)  # 0.7 / 0.1 is 6.999999999999999
    judge = _least(left(budget.budget_judge_calls, spent.judge_calls), paid_looks)
    return Allowance(
        teacher_calls=None if teacher is None else int(teacher),
        judge_calls=None if judge is None else int(judge),
        cost_usd=None if cost is None else float(cost),
    )


def lowest_price_usd(budget: Budget, listed_usd: Mapping[str, float]) -> float:
    """Return the lowest known price of an image; 0 where none is known or all are free.

    Args:
        budget: Its prices come first.
        listed_usd: What the teachers say themselves, by name.
    """
    return min((price for price in {**listed_usd, **(budget.prices_usd or {})}.values() if price > 0), default=0.0)


def looks_left(budget: Budget, left: Allowance, price_per_image_usd: float) -> int | None:
    """Return how many looks the budget leaves once the images that may still be bought are paid for; None: any number.

    Args:
        budget: The price of a look.
        left: What may still be spent.
        price_per_image_usd: 0 where it is unknown.
    """
    if left.judge_calls is None or left.cost_usd is None or budget.price_per_look_usd <= 0:
        return left.judge_calls
    money_usd = max(0.0, left.cost_usd - price_per_image_usd * (left.teacher_calls or 0))
    return min(left.judge_calls, int(money_usd / budget.price_per_look_usd + 1e-9))
