from collections import Counter

import pytest

from evolvedirector.evolution.evolve_director_policy import EvolveDirectorPolicy
from evolvedirector.records import Allowance, DatasetState, Evidence, Prompt, PromptEntry, RoundInfo, Sample, Verdict

FREE = Allowance(None, None, None)


def state_of(count: int) -> DatasetState:
    prompts = [Prompt.create(f"tone {number}") for number in range(count)]
    return DatasetState("sha", {p.id: PromptEntry(p, "live", Sample.create(p, "0" * 64, "toy")) for p in prompts})


def info(round_id: str = "r", seed: int = 0) -> RoundInfo:
    return RoundInfo(round_id, 0, None, seed, 0, "sha")


def seen(state: DatasetState, verdict: Verdict) -> list[Evidence]:
    return [Evidence(key, "compare", verdict) for key in state.entries]


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
    evidence = [Evidence(key, "compare", "teacher" if n < wins else "student") for n, key in enumerate(chosen)]
    counts: Counter[str] = Counter()
    for decision in policy.decide(state, evidence, FREE, info()):
        counts[decision.kind] += decision.count
    change = counts["expand"] + counts["mutate"] - counts["retire"]
    assert change == pytest.approx(0.2 * size * (3.9 * share - 0.9), abs=60)


@pytest.mark.parametrize(
    ("operation", "kind"), [("expansion", "expand"), ("deletion", "retire"), ("mutation", "mutate")]
)
def test_each_operation_has_an_off_switch(operation: str, kind: str) -> None:
    state = state_of(200)
    policy = EvolveDirectorPolicy(**{operation: False})
    evidence = [Evidence(key, "compare", "teacher" if n % 2 else "student") for n, key in enumerate(state.entries)]
    kinds = Counter(d.kind for d in policy.decide(state, evidence, FREE, info()))
    assert kinds[kind] == 0
    assert len(kinds) >= 2


def test_without_discrimination_nobody_is_asked_and_a_coin_decides() -> None:
    state, policy = state_of(1000), EvolveDirectorPolicy(discrimination=False)
    assert policy.plan(state, info()).compare == ()
    kinds = Counter(d.kind for d in policy.decide(state, [], FREE, info()))
    assert 70 < kinds["expand"] < 130 and 70 < kinds["retire"] < 130


@pytest.mark.parametrize("wrong", [{"select_share": 1.2}, {"mutation_probability": -0.1}, {"expansions": -1}])
def test_a_number_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* Allowed: .* Write"):
        EvolveDirectorPolicy(**wrong)
