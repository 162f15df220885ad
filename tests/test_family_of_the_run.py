"""Every family is tested whole in some run, and a run says which one it is."""

from __future__ import annotations

import pytest

from tests.conftest import pytest_collection_modifyitems
from tests.family_of_the_run import FAMILIES, VARIABLE, family_of_commit, family_of_the_run


def test_commits_take_all_families_in_turn_and_none_is_the_first() -> None:
    assert {family_of_commit(f"{number:08x}{'0' * 32}") for number in range(100)} == set(FAMILIES)
    assert family_of_commit("") == FAMILIES[0]


def test_the_variable_chooses_and_a_wrong_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sana")
    assert family_of_the_run() == "sana"
    monkeypatch.setenv(VARIABLE, "sdx")
    with pytest.raises(ValueError, match=r"'sdx'. Allowed are flux1, "):
        family_of_the_run()


class Item:
    """As much of a collected test as the hook asks for."""

    nodeid = "test"

    def __init__(self, family: str | None) -> None:
        self.family = family
        self.added: list[str] = []

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return pytest.mark.in_turn(self.family).mark if self.family and name == "in_turn" else None

    def add_marker(self, marker: pytest.MarkDecorator) -> None:
        self.added.append(marker.name)


def test_a_test_in_turn_is_slow_unless_its_family_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "sana")
    chosen, other, plain = Item("sana"), Item("sd3"), Item(None)
    pytest_collection_modifyitems([chosen, other, plain])  # type: ignore[list-item]
    assert (chosen.added, other.added, plain.added) == ([], ["slow"], [])
    with pytest.raises(AssertionError, match="sdx is no family"):
        pytest_collection_modifyitems([Item("sdx")])  # type: ignore[list-item]
