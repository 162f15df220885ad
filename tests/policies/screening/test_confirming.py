"""Candidates are looked at again, written and bought as the judge, the failing share and the prices make it worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.policies import Confirming, Confirms, EvolveDirectorPolicy, RunSize, Screening, ScreeningPolicy
from evolvedirector.policies.screening.confirming import expansion_share, looks_of_round
from evolvedirector.policies.screening.posterior import Seen
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Evidence,
    JudgeAccuracy,
    Look,
    Prompt,
    PromptEntry,
    RoundHistory,
    RoundInfo,
    Tally,
)
from tests.policies.screening.gap_loop import GapLoop, is_hidden

FREE = Allowance(None, None, None)
ERRING = JudgeAccuracy(0.8, 0.8, 200, 200)
ONE_LOOK = ScreeningPolicy(confirming=Confirming(most_looks=1))
FOUR_CANDIDATES = Screening(most_candidates_per_call=4, least_expansion_share=None)


def played(policy: ScreeningPolicy, seeds: int = 6, rounds: int = 6, **settings: Any) -> list[GapLoop]:
    return [GapLoop(policy, seed=seed, rounds=rounds, **settings).run() for seed in range(seeds)]


def in_gap(loops: list[GapLoop]) -> float:
    return mean(loop.share_in_gap for loop in loops)


def test_with_a_fifth_of_wrong_looks_at_a_gap_of_one_in_twenty_most_of_what_is_bought_is_the_gap() -> None:
    confirmed, one_look = (played(policy, 5, 8, calls=12, gold=100) for policy in (ScreeningPolicy(), ONE_LOOK))
    assert in_gap(confirmed) > 0.75 and in_gap(confirmed) > in_gap(one_look) + 0.1
    further = sum(loop.further for loop in confirmed)
    assert 0 < further < sum(loop.looks for loop in confirmed) / 3
    assert all(loop.further == 0 for loop in one_look)


def test_a_judge_of_unknown_accuracy_is_not_taken_at_its_word() -> None:
    assert in_gap(played(ScreeningPolicy(), 3, gold=0)) > in_gap(played(ONE_LOOK, 3, gold=0)) + 0.25


def test_children_of_failing_prompts_raise_the_failing_share_of_the_candidates() -> None:
    for wrong in (0.0, 0.2):
        loops = played(ScreeningPolicy(), 3, calls=24, wrong=wrong)
        first, last = (mean(loop.shares[k] for loop in loops) for k in (0, 3))
        assert last > 2 * first


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 999), st.sampled_from([6, 24, 60]), st.floats(0.0, 1.0))
def test_an_exact_judge_decides_by_one_look_as_ever(seed: int, calls: int, hidden: float) -> None:
    """Nothing moves: same candidates, same purchases in the same order, where looks and shares are as they were."""
    before = ScreeningPolicy(screening=FOUR_CANDIDATES, confirming=Confirming(most_looks=1))
    now = ScreeningPolicy(screening=FOUR_CANDIDATES)
    loops = [GapLoop(policy, hidden, 0.0, calls, seed=seed, rounds=5).run() for policy in (before, now)]
    assert loops[0].bought == loops[1].bought and loops[0].first == loops[1].first and not loops[1].further
    assert all(map(is_hidden, loops[1].bought))


@pytest.mark.parametrize("wrong", [0.0, 0.2])
@pytest.mark.parametrize("hidden", [0.0, 0.3, 1.0])
def test_what_is_asked_is_within_what_was_said_to_be_the_most(wrong: float, hidden: float) -> None:
    policy = ScreeningPolicy()
    for loop in played(policy, 2, hidden=hidden, wrong=wrong, calls=20):
        most = policy.most_looks(RunSize(6, 20, seeds=6, skills=6))
        assert most is not None and loop.looks <= most
        assert loop.further <= loop.looks / 2


def candidates(**looks: tuple[int, int]) -> tuple[list[Prompt], list[Evidence]]:
    """Those named, with so many looks that say lacks, then shows; 40 that passed one look, 10 that failed 1 of 3."""
    looks |= {f"passed {n}": (0, 1) for n in range(40)} | {f"false alarm {n}": (1, 2) for n in range(10)}
    prompts = {name: Prompt.create(f"position {name}", "mutation", "position") for name in looks}
    return list(prompts.values()), [seen(prompts[name], *of) for name, of in looks.items()]


def seen(prompt: Prompt, lacks: int, shows: int) -> Evidence:
    looks = (*(Look("a", 0.1),) * lacks, *(Look("b", 0.9),) * shows)
    return Evidence(prompt.id, "screen", "lacks" if lacks else "shows", looks=looks)


def asked(
    policy: ScreeningPolicy, given: tuple[list[Prompt], list[Evidence]], allowance: Allowance = FREE, **info: Any
):
    prompts, evidence = given
    state = DatasetState("sha", {p.id: PromptEntry(p, "candidate") for p in prompts}, history=info.pop("history", ()))
    texts = {p.id: p.text.removeprefix("position ") for p in prompts}
    round = replace(RoundInfo("r", 0, 10, 0, 0, "sha", 40, 0, 0, ERRING), **info)
    again = policy.look_again(state, evidence, allowance, round)
    bought = [d.prompt_id for d in policy.decide(state, evidence, allowance, round) if d.kind == "buy"]
    return [texts[key] for key in again], [texts[key] for key in bought]


def test_what_failed_once_is_looked_at_again_and_what_failed_often_is_bought_first() -> None:
    again, bought = asked(ScreeningPolicy(), candidates(once=(1, 0), five=(5, 0), mixed=(1, 3)))
    assert again == ["once"]
    assert bought == ["five"]  # what is in doubt waits: a call is worth more later
    again, bought = asked(ScreeningPolicy(), candidates(once=(1, 0), five=(5, 0), three=(3, 0)), index=4)
    assert bought[:2] == ["five", "three"]


@pytest.mark.parametrize(
    ("info", "allowance"),
    [
        ({"judge": JudgeAccuracy(1.0, 1.0, 20, 20)}, FREE),
        ({"judge": JudgeAccuracy(0.5, 0.5, 20, 20)}, FREE),  # its looks say nothing
        ({"budget_teacher_calls": 0}, FREE),
        ({}, Allowance(0, None, None)),
        ({}, Allowance(None, 72, None)),  # as many looks as were taken
        ({"looks_left": 72 * 5 + 40 * 5}, FREE),  # and the rest for later rounds and for what is bought
        ({"price_per_look_usd": 4.0, "price_per_image_usd": 0.04}, FREE),
    ],
)
def test_nothing_is_looked_at_again_where_that_is_not_worth_it(info: Mapping[str, Any], allowance: Allowance) -> None:
    given = candidates(once=(1, 0), too=(1, 0))
    assert asked(ScreeningPolicy(), given)[0]
    assert asked(ScreeningPolicy(), given, allowance, **info)[0] == []
    assert asked(ONE_LOOK, given, allowance, **info)[0] == []


def test_a_bounded_number_of_looks_at_one_candidate_and_of_further_looks_in_a_round() -> None:
    policy = ScreeningPolicy(confirming=Confirming(most_looks=3))
    assert asked(policy, candidates(three=(3, 0), once=(1, 0), too=(1, 0)))[0] == ["too", "once"]
    spent = {f"n{number}": (3, 3) for number in range(20)}  # over 100 further looks at 71 candidates
    assert asked(ScreeningPolicy(), candidates(once=(1, 0), **spent))[0] == []


def test_a_budget_of_looks_is_shared_out_over_the_rounds_that_buy() -> None:
    round = RoundInfo("r", 1, 10, 0, 0, "sha", 40, 10, 0, looks_left=1000)
    assert looks_of_round(round, 5) == (1000 - 5 * 30) // 4
    assert looks_of_round(replace(round, looks_left=None), 5) is None
    assert looks_of_round(replace(round, looks_left=100), 5) == 0


def history(skill: str = "position", **operations: tuple[int, int]) -> tuple[RoundHistory, ...]:
    tallies = {(skill, name): Tally(*tally) for name, tally in operations.items()}
    whole = Tally(sum(t.looked for t in tallies.values()), sum(t.failed for t in tallies.values()))
    return (RoundHistory("r0", JudgeAccuracy(1.0, 1.0), {skill: whole}, {}, frozenset(), tallies),)  # type: ignore[arg-type]


def written(policy: ScreeningPolicy, past: tuple[RoundHistory, ...], **info: Any) -> int:
    state = DatasetState("sha", {}, history=past)
    round = replace(RoundInfo("r", 1, 10, 0, 0, "sha", 50, 0, 0, JudgeAccuracy(1.0, 1.0)), **info)
    return sum(request.count for request in policy.plan(state, round).write)


def test_as_many_candidates_are_written_as_it_takes_to_find_what_a_round_may_buy() -> None:
    policy = ScreeningPolicy()
    assert written(policy, history(mutation=(1000, 500))) == 80  # 20 calls, 4 each
    assert 190 <= written(policy, history(mutation=(1000, 100))) <= 210
    assert 390 <= written(policy, history(mutation=(1000, 50))) <= 410
    assert written(policy, history(mutation=(1000, 1))) == 64 * 10  # at most, for an even part of the calls
    assert written(policy, history(mutation=(10**5, 0))) == 80  # nothing fails any more
    assert written(policy, ()) == 80
    assert written(policy, history(mutation=(1000, 50)), looks_left=1250) == (1250 - 5 * 50) // 4
    dear = {"price_per_look_usd": 0.04, "price_per_image_usd": 0.04}
    assert written(policy, history(mutation=(1000, 50)), **dear) == 80
    assert written(policy, history(mutation=(1000, 50)), index=7) == 4 * 50  # buying should be over
    assert written(ScreeningPolicy(screening=Screening(most_candidates_per_call=4)), history(mutation=(99, 5))) == 80
    assert written(ScreeningPolicy(without={"discrimination"}), history(mutation=(99, 5))) <= 80


def test_operations_share_the_candidates_by_what_they_yield_with_a_floor() -> None:
    def sums(expansion: float | None, mutation: float) -> dict[tuple[str, ...], Seen]:
        found = {("operation", "a", "mutation"): Seen(1e6, 1e6 * mutation)}
        if expansion is not None:
            found["operation", "a", "expansion"] = Seen(1e6, 1e6 * expansion)
        return found

    assert expansion_share(sums(None, 0.3), 0.2, 0.2) == 0.8  # until both were tried
    assert expansion_share(sums(0.4, 0.4), 0.2, 0.2) == pytest.approx(0.5)
    assert expansion_share(sums(0.45, 0.05), 0.2, 0.2) == pytest.approx(0.2 + 0.6 * 0.9, abs=1e-3)
    assert expansion_share(sums(0.0, 0.5), 0.2, 0.2) == pytest.approx(0.2, abs=1e-3)
    assert expansion_share(sums(0.0, 0.5), 0.0, 0.2) == pytest.approx(0.0, abs=1e-3)


def test_it_says_that_it_confirms() -> None:
    assert isinstance(ScreeningPolicy(), Confirms) and not isinstance(EvolveDirectorPolicy(), Confirms)


@pytest.mark.parametrize(
    ("group", "wrong"),
    [
        (Confirming, {"most_looks": 0}),
        (Confirming, {"most_looks": 33}),
        (Confirming, {"looks_per_image_price": 0.5}),
        (Confirming, {"assumed_accuracy": 0.5}),
        (Confirming, {"assumed_accuracy": float("nan")}),
        (Screening, {"most_candidates_per_call": 3}),
        (Screening, {"least_expansion_share": 0.9}),
    ],
)
def test_a_setting_out_of_range_is_refused(group: Any, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"\w+\.{name} is .*\. Allowed: .*\. Leave {name} out to take its default\."):
        group(**wrong)
