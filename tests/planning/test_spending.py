"""What a run may spend at most is said before it starts, and never less than it may spend."""

from __future__ import annotations

import pytest

from evolvedirector.evolution import Budget
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.planning.spending import (
    check_prices,
    looks_rows,
    most_cost_usd,
    most_looks,
    plan_of_spending,
    with_look_price,
)
from evolvedirector.policies import Confirming, RunSize, Screening, ScreeningPolicy
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy


class Priced:
    """Costs what it is told; None: it has a price, but nobody knows it."""

    def __init__(self, price_usd: float | None) -> None:
        self._price_usd = price_usd

    def price_usd(self) -> float | None:
        return self._price_usd


def test_the_dearest_teacher_is_taken_to_draw_as_much_as_it_may() -> None:
    teachers = {"cheap": Priced(0.01), "dear": Priced(0.5), "own": object()}
    assert most_cost_usd(Budget(100), teachers) == 50.0
    assert most_cost_usd(Budget(100, teacher_budgets={"dear": 10}), teachers) == pytest.approx(10 * 0.5 + 90 * 0.01)
    assert most_cost_usd(Budget(100, budget_cost_usd=7.0), teachers) == 7.0
    assert most_cost_usd(Budget(), teachers) is None
    assert most_cost_usd(Budget(budget_cost_usd=7.0), teachers) == 7.0
    assert most_cost_usd(Budget(100), {"unknown": Priced(None)}) is None
    assert most_cost_usd(Budget(100), {"own": object()}) == 0.0
    assert most_cost_usd(Budget(10, prices_usd={"a": 2.0}), {"a": Priced(0.25)}) == 20.0


def test_the_plan_speaks_of_every_teacher() -> None:
    budget = Budget(1000, teacher_budgets={"a": 300}, prices_usd={"b": 0.1})
    plan = plan_of_spending(budget, {"a": Priced(0.25), "b": Priced(None), "c": Priced(None), "d": object()})
    assert plan["teacher calls (most)"] == "1,000"
    assert plan["  a"] == "at most 300 images x 0.25 USD = 75.00 USD"
    assert plan["  b"] == "at most 1,000 images x 0.1 USD = 100.00 USD"
    assert plan["  c"] == "at most 1,000 images, price unknown: set budget.prices_usd.c"
    assert plan["  d"] == "at most 1,000 images, no price: nothing is charged"
    assert plan["cost (most)"].startswith("no limit")
    own = plan_of_spending(Budget(teacher_budgets={"a": 5, "b": 7}, prices_usd={"b": 0.5}), {"a": Priced(0.25), "b": 0})
    assert own["teacher calls (most)"] == "12"
    assert own["cost (most)"].startswith("4.75 USD")


def test_a_limit_of_money_needs_prices_that_are_known() -> None:
    teachers = {"a": Priced(0.1), "b": Priced(None), "mine": object()}
    with pytest.raises(ValueError, match=r"by b is unknown.*prices_usd: \{b: 0\.04\}"):
        check_prices(Budget(budget_cost_usd=5.0), teachers)
    check_prices(Budget(budget_cost_usd=5.0, prices_usd={"b": 0.2}), teachers)
    check_prices(Budget(100), teachers)


def test_looks_are_bounded_by_the_policy_or_by_the_budget() -> None:
    policy, health = ScreeningPolicy(), JudgeHealth(canaries_per_round=2)

    def most(budget: Budget, rounds: int | None = 4, health: JudgeHealth | None = None) -> int | None:
        return most_looks(policy, budget, RunSize(rounds, budget.budget_teacher_calls, seeds=10, skills=3), health)

    few = most(Budget(100))
    # two buying rounds: 50 and 100 allowed, at most 64 candidates each for 50 of them; then 100 twice where nothing was
    # bought, at 4 each; 30 per round measure three skills; and each may be looked at again
    assert few == 5 * 100 + 2 * (2 * 64 * 50 + 2 * 4 * 100) + 4 * (16 + 2 * 30)
    policy = ScreeningPolicy(screening=Screening(most_candidates_per_call=4), confirming=Confirming(most_looks=1))
    assert most(Budget(100)) == 5 * 100 + 4 * (50 + 100 + 100 + 100) + 4 * (16 + 30)
    policy = ScreeningPolicy()
    assert most(Budget(100), health=health) == few + 5 * 12
    assert most(Budget(100, budget_judge_calls=70)) == 70
    assert most(Budget(100), rounds=None) is None and most(Budget()) is None


def test_the_published_rule_looks_at_a_share_and_checks_what_it_buys_where_told_to() -> None:
    published = EvolveDirectorPolicy()
    assert published.most_looks(RunSize(3, 50, seeds=20)) == 3 * 70
    assert published.most_looks(RunSize(3, 5000, seeds=1000)) == 3 * 1200
    assert EvolveDirectorPolicy(check_teacher=True).most_looks(RunSize(3, 50, seeds=20)) == 3 * 70 + 50


def test_a_policy_of_ones_own_says_its_looks_itself() -> None:
    class Ten(EvolveDirectorPolicy):
        def most_looks(self, size: RunSize) -> int:
            return 10

    assert most_looks(Ten(), Budget(), RunSize(2, None), JudgeHealth(canaries_per_round=1)) == 10 + 3 * 6


def test_looks_cost_what_the_judge_or_the_budget_says() -> None:
    teachers = {"a": Priced(0.5)}
    unbounded = looks_rows(None, Budget(), teachers)["judge calls (most)"]
    assert unbounded == "unbounded: set budget_judge_calls"
    assert looks_rows(70, Budget(10, budget_judge_calls=70), teachers) == {
        "judge calls (most)": "70 (budget_judge_calls)"
    }
    budget = with_look_price(Budget(10), Priced(0.01))
    assert budget.price_per_look_usd == 0.01
    rows = looks_rows(70, budget, teachers)
    assert rows["judge calls (most)"] == "70 x 0.01 USD = 0.70 USD (by what the policy may ask at most)"
    assert rows["cost (most)"].startswith("5.70 USD for images and looks")
    assert "price of a look unknown" in looks_rows(70, Budget(), teachers, Priced(None))["judge calls (most)"]
    assert with_look_price(Budget(price_per_look_usd=0.2), Priced(0.01)).price_per_look_usd == 0.2
    with pytest.raises(ValueError, match=r"price of a look of Priced is unknown.*price_per_look_usd"):
        check_prices(Budget(budget_cost_usd=5.0), teachers, Priced(None))
    check_prices(Budget(budget_cost_usd=5.0, price_per_look_usd=0.1), teachers, Priced(None))
    check_prices(Budget(budget_cost_usd=5.0), teachers, object())
