"""Which teacher is asked first, and when a judge that errs is believed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.evolution.buying.standings import (
    DuelCount,
    ResultCount,
    Standing,
    added,
    in_order_of_merit,
    is_faithful,
    merit,
    past_standings,
    standings_of,
    unfaithful_rate,
)
from evolvedirector.records import JudgeAccuracy, Prompt
from evolvedirector.store.ledger import Duel, Ledger, TeacherResult

PROMPT = Prompt.create("two red squares", skill="counting")
EXACT, wrongly = JudgeAccuracy(), JudgeAccuracy.of_error


def duel(prompt_id: str, first: str, second: str, preference: str) -> Duel:
    return Duel(prompt_id, first, second, "x", "y", preference)  # type: ignore[arg-type]


def test_results_and_duels_are_counted_by_skill_and_teacher() -> None:
    results: list[ResultCount] = [
        ("counting", "a", "faithful", 1),
        ("counting", "b", "unfaithful", 1),
        ("colours", "a", "refusal", 1),
        ("colours", "b", "unchecked", 1),
    ]
    duels: list[DuelCount] = [
        ("counting", "a", "b", "first", 1),
        ("counting", "b", "a", "tie", 1),
        ("colours", "a", "b", "unreadable", 3),
    ]
    found = standings_of(results, duels)
    assert found == {
        ("counting", "a"): Standing(wins=1.5, duels=2, images=1, faithful=1),
        ("counting", "b"): Standing(wins=0.5, duels=2, images=1, unfaithful=1),
        ("colours", "a"): Standing(refusals=1),
        ("colours", "b"): Standing(images=1),
    }
    assert standings_of(results[::-1], duels[::-1]) == found
    twice = standings_of([*results, *results], [*duels, *duels])
    assert twice == {key: added(standing, standing) for key, standing in found.items()}


def test_the_winner_of_duels_is_asked_first_in_its_skill_alone() -> None:
    standings = {("counting", "b"): Standing(wins=3, duels=4), ("counting", "a"): Standing(wins=1, duels=4)}
    assert in_order_of_merit(["a", "b", "c"], PROMPT, "a", standings, EXACT) == ["b", "c", "a"]
    elsewhere = Prompt.create("a blue star", skill="colours")
    assert in_order_of_merit(["a", "b", "c"], elsewhere, "a", standings, EXACT) == ["a", "b", "c"]


def test_without_a_record_the_lineages_winner_is_asked_first_and_else_the_teachers_are_spread() -> None:
    assert in_order_of_merit(["a", "b", "c"], PROMPT, "b", {}, EXACT) == ["b", "c", "a"]
    firsts = {in_order_of_merit(["a", "b", "c"], Prompt.create(f"{n}"), None, {}, EXACT)[0] for n in range(40)}
    assert firsts == {"a", "b", "c"}


def test_being_asked_more_often_is_no_merit() -> None:
    often = Standing(images=50, faithful=50)
    assert merit(often, EXACT) == merit(Standing(images=1, faithful=1), EXACT) == merit(Standing(), EXACT) == 0.5


@pytest.mark.parametrize("worse", [Standing(faithful=8, unfaithful=2, images=10), Standing(images=4, refusals=4)])
def test_unfaithful_images_and_refusals_cost_the_first_place(worse: Standing) -> None:
    better = Standing(faithful=10, images=10)
    assert merit(worse, EXACT) < merit(better, EXACT)


records = st.builds(Standing, faithful=st.integers(0, 500), unfaithful=st.integers(0, 500))


@given(records)
def test_an_exact_judge_is_always_believed(record: Standing) -> None:
    assert not is_faithful("lacks", EXACT, unfaithful_rate(record, EXACT))
    assert is_faithful("shows", EXACT, unfaithful_rate(record, EXACT))


@given(records, st.floats(0.0, 0.5))
def test_a_rate_is_a_share_and_follows_bayes(record: Standing, error: float) -> None:
    rate = unfaithful_rate(record, wrongly(error))
    assert 0.0 <= rate <= 1.0
    wrong, right = rate * (1 - error), (1 - rate) * error
    if abs(wrong - right) > 1e-9:
        assert is_faithful("lacks", wrongly(error), rate) == (wrong / (wrong + right) <= 0.5)
    assert is_faithful("unreadable", wrongly(error), rate)


def test_a_rate_counts_more_unfaithful_looks_as_more() -> None:
    rates = [unfaithful_rate(Standing(faithful=20 - n, unfaithful=n), wrongly(0.2)) for n in range(21)]
    assert rates == sorted(rates) and rates[0] < 0.05 < 0.6 < rates[-1]


def test_both_numbers_of_the_judge_decide_whether_it_is_believed() -> None:
    lenient, strict = JudgeAccuracy(0.5, 1.0), JudgeAccuracy(1.0, 0.6)
    assert not is_faithful("lacks", lenient, 0.01), "it misses many, but what it calls wrong is wrong"
    assert is_faithful("lacks", strict, 0.2) and not is_faithful("lacks", strict, 0.3)  # 0.2 < 0.8 x 0.4, 0.3 > 0.28
    assert unfaithful_rate(Standing(faithful=15, unfaithful=5), lenient, prior=0.5) == pytest.approx(0.5)


def rejected_share(true_rate: float, error: float, seed: int) -> float:
    """Share of images rejected over 400 draws of a teacher, its record growing as a round adds 20."""
    rng = random.Random(seed)
    faithful = unfaithful = rejected = 0
    for _ in range(20):
        rate = unfaithful_rate(Standing(faithful=faithful, unfaithful=unfaithful), wrongly(error))
        for _ in range(20):
            seen = (rng.random() < true_rate) != (rng.random() < error)
            rejected += not is_faithful("lacks" if seen else "shows", wrongly(error), rate)
            faithful, unfaithful = faithful + (not seen), unfaithful + seen
    return rejected / 400


def test_a_judge_wrong_in_three_of_ten_rejects_nearly_nothing_of_a_perfect_teacher() -> None:
    assert sum(rejected_share(0.0, 0.3, seed) for seed in range(50)) / 50 < 0.01


def test_a_teacher_worse_than_the_judge_is_rejected_where_the_judge_says_so() -> None:
    share = sum(rejected_share(0.6, 0.1, seed) for seed in range(20)) / 20
    assert 0.5 < share < 0.65  # 0.6 x 0.9 + 0.4 x 0.1 = 0.58


def test_a_coin_flipping_judge_leaves_the_prior() -> None:
    assert unfaithful_rate(Standing(unfaithful=100), wrongly(0.5)) == 0.1
    assert is_faithful("lacks", wrongly(0.5), 0.1)


def test_the_past_is_the_ancestry_without_the_round_itself(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.prompts.add([PROMPT])
    for number, (sha, parent, round_id) in enumerate([("s1", None, "import"), ("s2", "s1", "r1"), ("s3", "s2", "r2")]):
        ledger.rounds.record_revision(sha, number + 1, parent, round_id)
    ledger.rounds.record_revision("fork", 3, "s2", "r3")
    for round_id in ("r1", "r2", "r3"):
        ledger.calls.add_results(round_id, [TeacherResult(PROMPT.id, "a", "faithful")])
    images = {sha: past_standings(ledger, sha).get(("counting", "a"), Standing()).images for sha in ("s1", "s2", "s3")}
    assert images == {"s1": 0, "s2": 1, "s3": 2}
    assert past_standings(ledger, "fork")[("counting", "a")].images == 2
    assert past_standings(ledger, "s3", without_round="r2")[("counting", "a")].images == 1
    ledger.close()
