"""Changes on top of a mapping against a copied dict."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.records.layered import Layered, OrderedPairs, with_changes

KEYS = st.sampled_from([f"k{n}" for n in range(8)])
CHANGES = st.lists(st.dictionaries(KEYS, st.none() | st.integers(), max_size=5), max_size=6)


class Counted(OrderedPairs[int]):
    """A large mapping: how often single values were asked for."""

    def __init__(self, values: dict[str, int]) -> None:
        self.of, self.asked = values, 0

    def __len__(self) -> int:
        return len(self.of)

    def __iter__(self) -> Iterator[str]:
        return iter(self.of)

    def __contains__(self, key: object) -> bool:
        return key in self.of

    def __getitem__(self, key: str) -> int:
        self.asked += 1
        return self.of[key]

    def pairs(self) -> Iterator[tuple[str, int]]:
        return iter(self.of.items())


@given(st.dictionaries(KEYS, st.integers()), CHANGES)
def test_changes_on_top_are_those_of_a_copy(start: dict[str, int], steps: list[dict[str, int | None]]) -> None:
    plain, layered = dict(start), with_changes(Counted(start), {})
    before = dict(start)
    for step in steps:
        plain, layered = with_changes(plain, step), with_changes(layered, step)  # type: ignore[assignment]
        assert isinstance(plain, dict) and isinstance(layered, Layered)
        assert list(layered) == list(plain) and list(layered.items()) == list(plain.items())
        assert list(layered.values()) == list(plain.values()) and len(layered) == len(plain)
        assert layered == plain and plain == layered
        for key in (f"k{n}" for n in range(9)):
            assert (key in layered) == (key in plain) and layered.get(key) == plain.get(key)
    assert start == before


def test_the_old_one_stays_as_it_is_and_nothing_below_is_gone_through() -> None:
    large = Counted({f"k{n}": n for n in range(1000)})
    one = with_changes(large, {"k1": -1, "new": 5, "k2": None})
    two = with_changes(one, {"new": None, "k1": 7})
    assert (one["k1"], one["new"], "k2" in one, two["k1"], "new" in two) == (-1, 5, False, 7, False)
    assert large.asked == 0 and isinstance(two, Layered) and two.changes == 2
    with pytest.raises(KeyError):
        two["k2"]
