import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.evolution.budget import Budget, allowance_of, check_teacher_names
from evolvedirector.store.ledger import Spend

limits = st.none() | st.integers(0, 1000)


def test_no_limit_allows_everything() -> None:
    allowance = allowance_of(Budget(), Spend(10**6, 10**6, 0, 1e6), Spend())
    assert (allowance.teacher_calls, allowance.judge_calls, allowance.cost_usd) == (None, None, None)


@given(limits, limits, st.integers(0, 2000), st.integers(0, 2000))
def test_what_is_allowed_keeps_within_both_limits(
    total: int | None, per_round: int | None, spent: int, here: int
) -> None:
    here = min(here, spent)
    allowed = allowance_of(
        Budget(budget_teacher_calls=total, teacher_calls_per_round=per_round), Spend(spent), Spend(here)
    ).teacher_calls
    if total is None and per_round is None:
        assert allowed is None
        return
    assert allowed is not None and allowed >= 0
    assert total is None or allowed == 0 or spent + allowed <= total
    assert per_round is None or allowed == 0 or here + allowed <= per_round


def test_money_limits_looks_at_their_price() -> None:
    budget = Budget(budget_cost_usd=10.0, budget_judge_calls=90, price_per_look_usd=0.1)
    assert allowance_of(budget, Spend(cost_usd=2.0), Spend()).judge_calls == 80
    assert allowance_of(budget, Spend(judge_calls=60, cost_usd=2.0), Spend()).judge_calls == 30
    assert allowance_of(budget, Spend(cost_usd=11.0), Spend()).judge_calls == 0
    assert allowance_of(Budget(price_per_look_usd=0.1), Spend(cost_usd=2.0), Spend()).judge_calls is None


@pytest.mark.parametrize("name", ["budget_teacher_calls", "budget_cost_usd", "teacher_calls_per_lineage"])
def test_a_negative_limit_is_refused_with_what_to_write(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is -1\. Allowed: 0 or more.*Write `{name}: 0`"):
        Budget(**{name: -1})


def test_a_budget_of_zero_buys_nothing() -> None:
    assert Budget(budget_teacher_calls=0).buys_nothing
    assert not Budget().buys_nothing


def test_budgets_and_prices_of_known_teachers_are_taken() -> None:
    check_teacher_names(Budget(teacher_budgets={"a": 5, "b": 7}, prices_usd={"b": 0.5}), ["a", "b", "c"])


@pytest.mark.parametrize("name", ["teacher_budgets", "prices_usd"])
def test_a_name_that_no_teacher_has_and_a_negative_figure_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} names 'aa', 'x', but no teacher.*Allowed: a, b\. Write one"):
        check_teacher_names(Budget(**{name: {"x": 1, "aa": 1, "a": 2}}), ["a", "b"])
    with pytest.raises(ValueError, match=rf"{name}\.a is -1\. Allowed: 0 or more"):
        Budget(**{name: {"a": -1}})
