import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.records import Evidence, EvidenceKind, Look, Preference
from evolvedirector.records.looks import preference_of, reading_of, verdict_of

chance = st.floats(0, 1)


def look(probability: float, mass: float = 1.0) -> Look:
    return Look("x", probability, mass)


def test_one_look_decides_in_its_order() -> None:
    assert preference_of(look(0.8)) == "first"
    assert preference_of(None, look(0.8)) == "second"


def test_orders_that_disagree_are_a_tie() -> None:
    assert preference_of(look(0.9), look(0.9)) == "tie"  # always the first: a position bias, not a preference
    assert preference_of(look(0.9), look(0.1)) == "first"


def test_a_small_margin_is_a_tie() -> None:
    assert preference_of(look(0.55), tie_margin=0.1) == "tie"
    assert preference_of(look(0.65), tie_margin=0.1) == "first"


@pytest.mark.parametrize("broken", [look(0.9, 0.2), look(math.nan), look(1.5), look(0.9, math.nan)])
def test_a_look_that_says_nothing_is_unreadable(broken: Look) -> None:
    assert preference_of(broken) == "unreadable"
    assert preference_of(look(0.9), broken) == "unreadable"
    assert reading_of(broken) == "unreadable"


def test_nothing_looked_at_is_unreadable() -> None:
    assert preference_of(None, None) == "unreadable"
    assert reading_of(None) == "unreadable"


@given(chance, chance)
def test_swapping_the_images_swaps_the_preference(first: float, second: float) -> None:
    swapped = {"first": "second", "second": "first", "tie": "tie", "unreadable": "unreadable"}
    assert preference_of(look(second), look(first)) == swapped[preference_of(look(first), look(second))]


@pytest.mark.parametrize("preference", get_args(Preference))
def test_a_verdict_names_the_owner_of_the_preferred_image(preference: Preference) -> None:
    words = {"first": ("student", "teacher"), "second": ("teacher", "student")}
    neither = "tie" if preference == "tie" else "invalid"
    expected = words.get(preference, (neither, neither))
    assert (verdict_of(preference, first="student"), verdict_of(preference, first="teacher")) == expected


@pytest.mark.parametrize("kind", get_args(EvidenceKind))
def test_evidence_has_the_outcome_of_its_kind_and_no_other(kind: EvidenceKind) -> None:
    outcomes: list[dict[str, Any]] = [{"reading": "shows"}, {"verdict": "tie"}, {"scores": {"clip": 0.3}}]
    own = {"compare": 1, "score": 2}.get(kind, 0)
    Evidence("p", kind, **outcomes[own])
    for wrong in ({}, *(outcomes[n] for n in range(3) if n != own), outcomes[0] | outcomes[1] | outcomes[2]):
        with pytest.raises(ValueError, match=rf"Allowed for this kind is `{next(iter(outcomes[own]))}` alone"):
            Evidence("p", kind, **wrong)


def test_a_check_reads_its_threshold() -> None:
    assert reading_of(look(0.5)) == "shows"
    assert reading_of(look(0.49)) == "lacks"
