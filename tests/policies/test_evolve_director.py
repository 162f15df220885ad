import functools
import random
from collections import Counter
from collections.abc import Set

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.policies.operations import Operation
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    Prompt,
    PromptEntry,
    RoundInfo,
    Sample,
    Verdict,
)

FREE = Allowance(None, None, None)


@functools.cache
def state_of(count: int) -> DatasetState:
    prompts = [Prompt.create(f"tone {number}") for number in range(count)]
    return DatasetState("sha", {p.id: PromptEntry(p, "live", Sample.create(p, "0" * 64, "toy")) for p in prompts})


def info(round_id: str = "r", seed: int = 0) -> RoundInfo:
    return RoundInfo(round_id, 0, None, seed, 0, "sha")


def seen(state: DatasetState, verdict: Verdict) -> list[Evidence]:
    return [Evidence(key, "compare", verdict=verdict) for key in state.entries]


def test_it_looks_at_a_fifth_once_and_at_all_of_a_small_set() -> None:
    policy = EvolveDirectorPolicy()
    plan = policy.plan(state_of(1000), info())
    assert len(plan.compare) == len(set(plan.compare)) == 200
    assert not plan.both_orders and not plan.write and not plan.probe
    assert len(policy.plan(state_of(100), info()).compare) == 100
    assert len(policy.plan(state_of(101), info()).compare) == 20


def test_the_choice_follows_from_round_and_seed_alone() -> None:
    policy, state = EvolveDirectorPolicy(), state_of(500)
    assert policy.plan(state, info()) == policy.plan(state, info())
    assert policy.plan(state, info("other")) != policy.plan(state, info())
    assert policy.plan(state, info(seed=1)) != policy.plan(state, info())


def test_teacher_better_keeps_and_expands_by_three() -> None:
    state = state_of(20)
    decisions = EvolveDirectorPolicy().decide(state, seen(state, "teacher"), FREE, info())
    assert {(d.kind, d.count) for d in decisions} == {("expand", 3)}
    assert len(decisions) == 20


def test_student_better_deletes_and_mutates_one_in_ten() -> None:
    state = state_of(2000)
    counts = Counter(d.kind for d in EvolveDirectorPolicy().decide(state, seen(state, "student"), FREE, info()))
    assert counts["retire"] == 2000
    assert 150 < counts["mutate"] < 250  # binomial(2000, 0.1): 200 +- 3.7 standard deviations
    assert set(counts) == {"retire", "mutate"}


@pytest.mark.parametrize("verdict", ["invalid", "tie"])
def test_an_unreadable_look_keeps(verdict: Verdict) -> None:
    state = state_of(5)
    assert {d.kind for d in EvolveDirectorPolicy().decide(state, seen(state, verdict), FREE, info())} == {"keep"}


def test_arrival_order_decides_nothing() -> None:
    state = state_of(50)
    evidence = seen(state, "student")
    policy = EvolveDirectorPolicy()
    assert policy.decide(state, evidence, FREE, info()) == policy.decide(state, evidence[::-1], FREE, info())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.231, 0.5, 0.9])
def test_the_set_changes_as_published(share: float) -> None:
    # dN = 0.2 N (3.9 p - 0.9)
    size = 10_000
    state, policy = state_of(size), EvolveDirectorPolicy()
    chosen = policy.plan(state, info()).compare
    wins = int(share * len(chosen))
    evidence = [Evidence(key, "compare", verdict="teacher" if n < wins else "student") for n, key in enumerate(chosen)]
    counts: Counter[str] = Counter()
    for decision in policy.decide(state, evidence, FREE, info()):
        counts[decision.kind] += decision.count
    change = counts["expand"] + counts["mutate"] - counts["retire"]
    assert change == pytest.approx(0.2 * size * (3.9 * share - 0.9), abs=60)


@pytest.mark.parametrize(
    ("operation", "kind"), [("expansion", "expand"), ("deletion", "retire"), ("mutation", "mutate")]
)
def test_each_operation_can_be_left_out(operation: Operation, kind: str) -> None:
    state = state_of(200)
    policy = EvolveDirectorPolicy(without={operation})
    verdicts: list[Verdict] = ["student", "teacher"] * 100
    evidence = [Evidence(key, "compare", verdict=v) for key, v in zip(state.entries, verdicts, strict=True)]
    kinds = Counter(d.kind for d in policy.decide(state, evidence, FREE, info()))
    assert kinds[kind] == 0
    assert len(kinds) >= 2


def test_without_discrimination_nobody_is_asked_and_a_coin_decides() -> None:
    state, policy = state_of(1000), EvolveDirectorPolicy(without={"discrimination"})
    assert policy.plan(state, info()).compare == ()
    kinds = Counter(d.kind for d in policy.decide(state, [], FREE, info()))
    assert 70 < kinds["expand"] < 130 and 70 < kinds["retire"] < 130


@pytest.mark.parametrize("wrong", [{"select_share": 1.2}, {"mutation_probability": -0.1}, {"expansions": -1}])
def test_a_number_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* Allowed: .* Write"):
        EvolveDirectorPolicy(**wrong)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(0, 10**6))
def test_the_set_changes_as_published_within_sampling_error(share: float, seed: int) -> None:
    # one look has change 3 w.p. p, else -1 + (1 w.p. 0.1): mean 3.9 p - 0.9, variance p 9 + (1 - p) 0.9 - mean^2
    size = 2000
    state, policy, draw = state_of(size), EvolveDirectorPolicy(), random.Random(seed)
    chosen = policy.plan(state, info(seed=seed)).compare
    evidence = [Evidence(key, "compare", verdict="teacher" if draw.random() < share else "student") for key in chosen]
    change = Counter(d.kind for d in policy.decide(state, evidence, FREE, info(seed=seed)))
    grown = 3 * change["expand"] + change["mutate"] - change["retire"]
    mean = 3.9 * share - 0.9
    deviation = (len(chosen) * (9 * share + 0.9 * (1 - share) - mean**2)) ** 0.5
    assert abs(grown - 0.2 * size * mean) <= 5 * deviation + 1


def lived_through(
    share: float, budget: int, rounds: int = 25, size: int = 500, seed: int = 0, without: Set[Operation] = frozenset()
) -> tuple[list[int], int]:
    """Let the rule run with teachers winning a share of looks; returns the live prompts after each round and the spend.

    Purchases stop at the budget, as in a round; every child bought is live.
    """
    policy, draw = EvolveDirectorPolicy(without=without), random.Random(seed)
    entries, left, sizes = dict(state_of(size).entries), budget, [size]
    for index in range(rounds):
        state = DatasetState("sha", entries)
        seen = policy.plan(state, info(f"r{index}")).compare
        evidence = [Evidence(key, "compare", verdict="teacher" if draw.random() < share else "student") for key in seen]
        decisions = policy.decide(state, evidence, Allowance(left, None, None), info(f"r{index}"))
        entries = {key: e for key, e in entries.items() if key not in {d.prompt_id for d in decisions if retires(d)}}
        wanted = sum(d.count for d in decisions if d.kind in ("expand", "mutate"))
        children = [Prompt.create(f"tone {index} {n}") for n in range(min(left, wanted))]
        entries |= {p.id: PromptEntry(p, "live", Sample.create(p, "0" * 64, "toy")) for p in children}
        left -= len(children)
        sizes.append(len(entries))
    return sizes, budget - left


def retires(decision: Decision) -> bool:
    return decision.kind == "retire"


def test_where_teachers_win_the_set_explodes_up_to_the_budget_and_no_further() -> None:
    sizes, spent = lived_through(0.9, budget=1500, rounds=10)
    assert spent == 1500
    assert max(sizes) <= 500 + 1500
    assert max(sizes) > 3 * sizes[0]  # grows by 0.2 * 2.61 of itself each round
    assert sizes[-1] < max(sizes)  # nothing is bought any more, deletion goes on


def test_where_the_student_wins_the_set_collapses_whatever_the_budget() -> None:
    sizes, spent = lived_through(0.05, budget=10**6)
    assert sizes[-1] < 0.2 * sizes[0]
    assert spent < 500


def test_at_a_share_of_three_thirteenths_the_set_keeps_its_size() -> None:
    sizes, _ = lived_through(0.9 / 3.9, budget=10**6, size=2000, rounds=5)
    assert sizes[-1] == pytest.approx(2000, rel=0.12)


def test_without_deletion_nothing_shrinks_and_without_expansion_hardly_anything_grows() -> None:
    kept, _ = lived_through(0.0, budget=10**6, without={"deletion", "mutation"})
    assert set(kept) == {500}
    grown, spent = lived_through(1.0, budget=10**6, without={"expansion"})
    assert (set(grown), spent) == ({500}, 0)
    shrunk, spent = lived_through(0.0, budget=10**6, without={"mutation"})
    assert shrunk[-1] < shrunk[0] and spent == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 150), st.integers(0, 99), st.randoms(use_true_random=False))
def test_order_and_repetition_decide_nothing(count: int, seed: int, draw: random.Random) -> None:
    state = state_of(count)
    entries = dict(draw.sample(list(state.entries.items()), count))
    verdicts: list[Verdict] = ["student", "teacher", "tie", "invalid"]
    evidence = [Evidence(key, "compare", verdict=draw.choice(verdicts)) for key in state.entries]
    policy, round = EvolveDirectorPolicy(), info(seed=seed)
    decisions = policy.decide(state, evidence, FREE, round)
    assert decisions == policy.decide(DatasetState("sha", entries), draw.sample(evidence, count), FREE, info(seed=seed))
    assert policy.plan(state, round) == policy.plan(DatasetState("sha", entries), round)
    assert {d.prompt_id for d in decisions} == set(state.entries)


def test_it_leaves_the_draws_alone() -> None:
    assert EvolveDirectorPolicy().mix(state_of(3), [], info()) is None
