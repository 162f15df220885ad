"""Failing shares of cells, and what is chosen and named from them: pure, and by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from evolvedirector.errors import UserError
from evolvedirector.pairs import FailingPairs
from evolvedirector.pairs.evolving.cells import Cell, CellRate, cell_rates, remembered_counts
from evolvedirector.pairs.evolving.plan import PAIRS_OF_A_ROUND, looks_of_round, parted, wishes_of_round
from evolvedirector.pairs.pair_records import Subject
from evolvedirector.records import Tally

FOX, CAT = Cell("fox", "tint"), Cell("cat", "tint")
SUBJECTS = [Subject(f"{kind}{n}", kind, f"{kind}{n}") for kind in ("fox", "cat") for n in range(10)]


def test_older_rounds_count_less() -> None:
    rounds = [{FOX: Tally(8, 4)}, {}, {FOX: Tally(2, 2), CAT: Tally(1, 0)}]
    assert remembered_counts(rounds, 0.5) == {FOX: (4.0, 3.0), CAT: (1.0, 0.0)}
    assert remembered_counts(rounds, 0.0) == {FOX: (2.0, 2.0), CAT: (1.0, 0.0)}


def test_what_nobody_looked_at_fails_and_a_kind_tells_of_its_cells() -> None:
    rates = cell_rates([FOX, CAT, Cell("fox", "place")], [{FOX: Tally(7, 1)}], 0.5, prior_looks=4)
    assert rates[Cell("fox", "place")].share == 1 and rates[Cell("fox", "place")].high == 1
    prior = 2 / 8  # one failing look stands before the seven
    assert rates[CAT].share == pytest.approx(prior)
    assert rates[FOX].share == pytest.approx((1 + 4 * prior) / 11)
    assert rates[FOX].low < rates[FOX].share < rates[FOX].high < rates[CAT].high
    assert (rates[FOX].looked, rates[CAT].looked) == (7, 0)


def rate(high: float) -> CellRate:
    return CellRate(high, 0.0, high)


def test_pairs_go_where_the_upper_end_is_and_none_to_what_is_mastered() -> None:
    cells = {Cell("fox", "texture"): rate(0.9), Cell("fox", "tint"): rate(0.3), Cell("fox", "place"): rate(0.2)}
    chosen = FailingPairs().choose(cells, 120, seed=0)
    assert chosen == {Cell("fox", "texture"): 90, Cell("fox", "tint"): 30}
    assert FailingPairs().choose({FOX: rate(0.1)}, 120, seed=0) == {}


def test_with_more_cells_than_pairs_each_has_its_chance() -> None:
    cells = {Cell(f"c{n}", kind): rate(0.5) for n in range(50) for kind in ("place", "tint")}
    drawn = Counter(cell for seed in range(200) for cell in FailingPairs().choose(cells, 10, seed))
    assert sum(drawn.values()) == 2000 and len(drawn) == 100 and max(drawn.values()) < 45
    kinds = [Counter(c.kind for c in FailingPairs().choose(cells, 10, seed)) for seed in range(20)]
    assert all(abs(count["place"] - 5) <= 1 for count in kinds)


def test_a_group_is_looked_at_or_built_and_never_both() -> None:
    subjects = [Subject(f"{look}{n}", "fox", f"group{n}", look) for n in range(10) for look in ("a", "b")]
    looked, built = parted(subjects, 0.2, seed=0)
    assert len(looked) == 4 and len(built) == 16
    assert not {subject.group for subject in looked} & {subject.group for subject in built}
    assert parted(subjects, 0.2, seed=0) == (looked, built) != parted(subjects, 0.2, seed=1)
    with pytest.raises(UserError, match="of 1 group"):
        parted(subjects[:2], 0.2, seed=0)


def test_looks_take_kinds_in_turn_and_nothing_twice() -> None:
    looks = looks_of_round(SUBJECTS, ["place", "tint", "style"], 30, seed=1)
    assert Counter(kind for _, kind in looks) == {"place": 10, "tint": 10, "style": 10}
    assert len({(subject.name, kind) for subject, kind in looks}) == 30
    assert looks != looks_of_round(SUBJECTS, ["place", "tint", "style"], 30, seed=2)
    assert len(looks_of_round(SUBJECTS, ["place"], 1000, seed=1)) == 20


def test_wishes_are_named_by_their_round_and_cut_alike() -> None:
    chosen = {FOX: 15, CAT: 5}
    wishes = wishes_of_round(chosen, SUBJECTS, 3, seed=0)
    assert Counter(wish.subject.category for wish in wishes) == {"fox": 15, "cat": 5}
    assert Counter(wish.subject.category for wish in wishes[:8]) == {"fox": 6, "cat": 2}
    numbers = {wish.number for wish in wishes}
    assert numbers == {4 * PAIRS_OF_A_ROUND, 4 * PAIRS_OF_A_ROUND + 1}
    assert len({(w.subject.name, w.number) for w in wishes}) == 20
    assert not {w.number for w in wishes_of_round(chosen, SUBJECTS, 4, seed=0)} & numbers


@pytest.mark.parametrize("wrong", [{"memory": 1.5}, {"prior_looks": 0.0}, {"mastered_below": 1.0}])
def test_a_policy_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="Allowed are 0 to 1, numbers above 0, and 0 to under 1"):
        FailingPairs(**wrong)
