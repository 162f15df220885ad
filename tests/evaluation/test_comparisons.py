import pytest

from evolvedirector.evaluation.comparisons import compare_in_both_orders, win_rate_figures
from evolvedirector.evaluation.intervals import wilson_interval
from evolvedirector.records import Look, Prompt
from tests import toys

PROMPTS = [Prompt.create(f"tone {tone}", skill="tone") for tone in (10, 20)]
PAIRS = [
    (PROMPTS[0], toys.flat_png(10), toys.flat_png(99)),  # the student is right
    (PROMPTS[1], toys.flat_png(99), toys.flat_png(20)),  # the teacher is right
]


class AlwaysFirst(toys.ToyJudge):
    def look(self, pairs):
        return iter([Look(pair.item_id, 0.9) for pair in pairs])


class Silent(toys.ToyJudge):
    def look(self, pairs):
        return iter([Look(pair.item_id, 0.9) for pair in pairs[:1]])


def test_each_pair_is_looked_at_in_both_orders() -> None:
    judge = toys.ToyJudge()
    assert compare_in_both_orders(judge, PAIRS) == {PROMPTS[0].id: "student", PROMPTS[1].id: "teacher"}
    assert judge.asked == 4


def test_a_judge_that_prefers_a_place_sees_ties() -> None:
    assert set(compare_in_both_orders(AlwaysFirst(), PAIRS).values()) == {"tie"}


def test_a_look_that_never_came_is_unreadable() -> None:
    assert set(compare_in_both_orders(Silent(), PAIRS).values()) == {"invalid"}


def test_ties_count_half_and_unreadable_ones_not_at_all() -> None:
    verdicts = {"a": "student", "b": "tie", "c": "teacher", "d": "invalid"}
    figures = win_rate_figures(verdicts, {"a": "x", "b": "x", "c": "y", "d": "y"})  # type: ignore[arg-type]
    assert (figures["win_rate"], figures["prompts"], figures["unreadable"]) == (0.5, 3, 1)
    assert figures["interval"] == pytest.approx(wilson_interval(1.5, 3), abs=1e-6)
    assert figures["skills"]["x"]["win_rate"] == 0.75 and figures["skills"]["y"]["win_rate"] == 0.0


def test_nothing_compared_is_no_rate() -> None:
    assert win_rate_figures({}, {})["win_rate"] is None
