import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.records import Look
from evolvedirector.records.looks import verdict_of_check, verdict_of_pair

chance = st.floats(0, 1)


def look(probability: float, mass: float = 1.0) -> Look:
    return Look("x", probability, mass)


def test_one_look_decides_in_its_order() -> None:
    assert verdict_of_pair(look(0.8), None) == "student"
    assert verdict_of_pair(None, look(0.8)) == "teacher"


def test_orders_that_disagree_are_a_tie() -> None:
    assert verdict_of_pair(look(0.9), look(0.9)) == "tie"  # always the first: a position bias, not a preference
    assert verdict_of_pair(look(0.9), look(0.1)) == "student"


def test_a_small_margin_is_a_tie() -> None:
    assert verdict_of_pair(look(0.55), None, tie_margin=0.1) == "tie"
    assert verdict_of_pair(look(0.65), None, tie_margin=0.1) == "student"


@pytest.mark.parametrize("broken", [look(0.9, 0.2), look(math.nan), look(1.5), look(0.9, math.nan)])
def test_an_unreadable_look_is_invalid(broken: Look) -> None:
    assert verdict_of_pair(broken, None) == "invalid"
    assert verdict_of_pair(look(0.9), broken) == "invalid"
    assert verdict_of_check(broken) == "invalid"


def test_nothing_looked_at_is_invalid() -> None:
    assert verdict_of_pair(None, None) == "invalid"
    assert verdict_of_check(None) == "invalid"


@given(chance, chance)
def test_swapping_the_roles_swaps_the_verdict(first: float, second: float) -> None:
    swapped = {"student": "teacher", "teacher": "student", "tie": "tie", "invalid": "invalid"}
    assert verdict_of_pair(look(second), look(first)) == swapped[verdict_of_pair(look(first), look(second))]


def test_a_check_reads_its_threshold() -> None:
    assert verdict_of_check(look(0.5)) == "student"
    assert verdict_of_check(look(0.49)) == "teacher"
