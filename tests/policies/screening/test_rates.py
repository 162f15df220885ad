import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvedirector.policies.screening.candidates import apportioned, buying_order
from evolvedirector.policies.screening.rates import (
    draw_weight,
    exceeds,
    folded_rates,
    round_allowance,
    tallies_by,
    tells_apart,
)
from evolvedirector.records import (
    DatasetState,
    Evidence,
    JudgeAccuracy,
    Prompt,
    PromptEntry,
    RoundHistory,
    Tally,
)

wrong = JudgeAccuracy.of_error
EXACT, COIN = wrong(0.0), wrong(0.5)


def test_rates_start_at_one_and_go_half_the_way_each_round() -> None:
    rounds = [({"a": Tally(10, 0)}, EXACT), ({"a": Tally(10, 5), "b": Tally(0, 0)}, EXACT), ({"a": Tally(9, 9)}, COIN)]
    assert folded_rates([], ["a"]) == {"a": 1.0}
    assert folded_rates(rounds[:1], ["a", "b"]) == {"a": 0.5, "b": 1.0}
    assert folded_rates(rounds[:2], ["a", "b"]) == {"a": 0.5, "b": 1.0}
    assert folded_rates(rounds, ["a"]) == {"a": 0.5}  # the last judge knew nothing
    assert folded_rates([({"a": Tally(10, 3)}, wrong(0.3))], ["a"])["a"] == pytest.approx(0.5)
    assert folded_rates(rounds[:1], ["a"], smoothing=0.1)["a"] == pytest.approx(0.9)


def test_a_perfect_judge_needs_one_failure_and_a_wrong_one_more_than_its_error() -> None:
    assert exceeds(Tally(100, 1), 0.0, EXACT, 2.0)
    assert not exceeds(Tally(100, 0), 0.0, EXACT, 2.0)
    assert not exceeds(Tally(0, 0), 0.0, EXACT, 0.0)
    assert not exceeds(Tally(100, 39), 0.0, wrong(0.3), 2.0)  # 30 + 2 * 4.58
    assert exceeds(Tally(100, 40), 0.0, wrong(0.3), 2.0)
    assert not exceeds(Tally(100, 100), 0.0, COIN, 0.0)
    assert not exceeds(Tally(5, 1), 0.2, EXACT, 0.0) and exceeds(Tally(5, 2), 0.2, EXACT, 0.0)


def test_verdicts_and_unreadable_looks_count_neither_way() -> None:
    prompts = [Prompt.create(f"word {n}", skill="even" if n % 2 == 0 else "odd") for n in range(8)]
    state = DatasetState("sha", {p.id: PromptEntry(p, "candidate") for p in prompts})
    readings = ["lacks", "shows", "unreadable", "unreadable", "shows", "lacks", "lacks", "lacks"]
    evidence = [Evidence(p.id, "screen", v) for p, v in zip(prompts, readings, strict=True)]  # type: ignore[arg-type]
    evidence.append(Evidence(prompts[0].id, "compare", verdict="teacher"))
    tallies = tallies_by(state, evidence, {"screen"}, lambda prompt: prompt.skill)
    assert tallies == {"even": Tally(3, 2), "odd": Tally(3, 2)}


def test_a_skill_is_drawn_less_only_when_it_is_mostly_right() -> None:
    assert [draw_weight(rate, 0.35) for rate in (0.0, 0.25, 0.5, 1.0)] == [0.35, 0.75, 1.0, 1.0]


def test_looks_tell_apart_once_a_skill_passes_more_often_than_by_luck() -> None:
    def said(*rounds: tuple[int, int, float]) -> bool:
        history = [RoundHistory("r", wrong(e), {"a": Tally(x, y)}, {}, frozenset()) for x, y, e in rounds]
        return tells_apart(history, 2.0, 4)

    assert not said() and not said((12, 12, 0.0), (12, 10, 0.0))
    assert said((12, 12, 0.0), (12, 6, 0.0)) and said((12, 6, 0.0), (12, 12, 0.0))
    assert not said((12, 6, 0.3)) and not said((12, 0, 0.5))  # such a judge explains them
    assert not said((1, 0, 0.0)) and not said((3, 0, 0.0)) and said((4, 0, 0.0))  # one look is luck


def test_the_allowance_grows_to_half_of_training_and_carries_over() -> None:
    planned = [round_allowance(100, 10, 10, index, 10, 0.25) for index in range(10)]
    assert planned == [18, 36, 54, 72, 90, 90, 90, 90, 90, 90]
    assert round_allowance(100, 10, 28, 1, 10, 0.25) == 18
    assert round_allowance(100, 10, 20, 1, 10, 0.25) == 26
    assert round_allowance(100, 10, 80, 1, 10, 0.25) == 0
    assert round_allowance(5, 10, 10, 9, 10, 0.25) == 0
    assert round_allowance(100, 10, 10, 0, 1, 0.25) == 90


def test_an_early_share_is_spent_first_and_the_rest_waits_until_looks_tell_skills_apart() -> None:
    def spending(informed_from: int) -> list[int]:
        spent, calls = 10, []
        for index in range(16):  # 8 buying rounds
            calls.append(round_allowance(90, 10, spent, index, 16, 0.25, 0.5, 0.5, index >= informed_from))
            spent += calls[-1]
        return calls

    assert spending(3) == [40, 0, 0, 8, 8, 8, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0]
    assert spending(0) == [40, 6, 6, 6, 6, 6, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0]
    assert spending(99) == [40, 0, 0, 0, 10, 10, 10, 10, 0, 0, 0, 0, 0, 0, 0, 0]


@given(
    st.integers(0, 300),
    st.integers(0, 50),
    st.integers(0, 40),
    st.none() | st.integers(1, 40),
    st.integers(0, 350),
    st.none() | st.floats(0, 1),
    st.booleans(),
)
def test_no_allowance_reaches_beyond_the_budget(
    budget: int,
    seed_calls: int,
    index: int,
    rounds: int | None,
    spent: int,
    early_share: float | None,
    informed: bool,
) -> None:
    calls = round_allowance(budget, seed_calls, spent, index, rounds, 0.25, 0.5, early_share, informed)
    assert 0 <= calls <= max(0, budget - spent)


@given(st.integers(0, 500), st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.floats(0.05, 1), min_size=1))
def test_a_split_is_complete_and_fair(total: int, weights: dict[str, float]) -> None:
    parts = apportioned(total, weights)
    assert sum(parts.values()) == total
    whole = sum(weights.values())
    assert all(abs(parts[name] - total * weight / whole) < 1 for name, weight in weights.items())
    assert min(apportioned(total, weights, least=7).values()) >= 7


def prompts_of(**counts: int) -> list[Prompt]:
    return [Prompt.create(f"{skill} {n}", skill=skill) for skill, count in counts.items() for n in range(count)]


def test_purchases_are_interleaved_by_failure_rate() -> None:
    order = buying_order(prompts_of(a=40, b=40), {"a": 0.8, "b": 0.2}, 0, "r", 0.05, None, False)
    assert [p.skill for p in order[:10]].count("a") == 8
    order = buying_order(prompts_of(a=40, b=40), {"a": 1.0, "b": 0.0}, 0, "r", 0.05, None, False)
    assert [p.skill for p in order[:42]].count("b") == 2  # the floor of a rate keeps the door open


@given(st.randoms(use_true_random=False), st.integers(0, 30), st.integers(0, 30), st.booleans())
def test_no_skill_is_bought_beyond_its_limit_before_the_others(
    draw: random.Random, many: int, few: int, append_rest: bool
) -> None:
    prompts = prompts_of(a=many, b=few)
    order = buying_order(prompts, {"a": 0.9, "b": 0.5}, 3, "r", 0.05, 10, append_rest)
    shuffled = draw.sample(prompts, len(prompts))
    assert order == buying_order(shuffled, {"b": 0.5, "a": 0.9}, 3, "r", 0.05, 10, append_rest)
    within = min(many, 10) + min(few, 10)
    assert [p.skill for p in order[:within]].count("a") == min(many, 10)
    assert len(order) == (many + few if append_rest else within)
