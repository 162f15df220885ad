"""A world of words: the prompt `two 17` has skill `two`; a student is a function from skill and trained texts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolvedirector.evolution.history import history_of
from evolvedirector.policies.policy import Policy
from evolvedirector.policies.screening.policy import ScreeningPolicy
from evolvedirector.policies.screening.settings import Mastery, Pace, Screening, Weighting
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    JudgeAccuracy,
    Prompt,
    PromptEntry,
    Reading,
    RoundHistory,
    RoundInfo,
    RoundPlan,
    Sample,
    Tally,
    TrainingMix,
    WriteRequest,
    seed_of,
)

SKILLS = ("single", "two", "counting", "colours", "position", "binding")
FREE = Allowance(None, None, None)
Fails = Callable[[Prompt, int], bool]
"""Does the student fail this unseen prompt in this round?"""


def never(prompt: Prompt, round: int) -> bool:
    return False


def always(prompt: Prompt, round: int) -> bool:
    return True


def seeds(**counts: int) -> dict[str, PromptEntry]:
    prompts = [Prompt.create(f"{skill} seed {n}", skill=skill) for skill, count in counts.items() for n in range(count)]
    return {p.id: live(p) for p in prompts}


def live(prompt: Prompt) -> PromptEntry:
    return PromptEntry(prompt, "live", Sample.create(prompt, "0" * 64, "toy"))


def state_of(entries: Mapping[str, PromptEntry], *history: RoundHistory) -> DatasetState:
    return DatasetState("sha", dict(entries), history=history)


def info(index: int = 0, rounds: int | None = 10, budget: int | None = 100, bought: int = 10, **more) -> RoundInfo:
    return RoundInfo(f"r{index}", index, rounds, more.pop("seed", 0), 0, "sha", budget, bought, 10, **more)


def screened(prompts: list[Prompt], reading: Reading = "lacks") -> list[Evidence]:
    return [Evidence(prompt.id, "screen", reading) for prompt in prompts]


def candidates(parent: Prompt | None = None, **counts: int) -> list[Prompt]:
    made = [(f"{skill} new {n}", skill) for skill, count in counts.items() for n in range(count)]
    return [Prompt.create(text, "expansion" if parent else "mutation", skill, parent) for text, skill in made]


def with_candidates(state: DatasetState, prompts: list[Prompt]) -> DatasetState:
    return replace(state, entries={**state.entries, **{p.id: PromptEntry(p, "candidate") for p in prompts}})


@dataclass
class Loop:
    """The round in memory: a writer of numbers, a student that remembers what it was trained on, a noisy judge."""

    policy: Policy
    fails: Fails
    entries: dict[str, PromptEntry]
    budget: int = 100
    rounds: int = 10
    wrong: float = 0.0
    seed: int = 0
    refuses: bool = False
    skills: tuple[str, ...] = SKILLS
    plans: list[RoundPlan] = field(default_factory=list)
    decisions: list[list[Decision]] = field(default_factory=list)
    mixes: list[TrainingMix | None] = field(default_factory=list)
    history: list[RoundHistory] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)

    def write(self, request: WriteRequest, parents: Mapping[str, Prompt]) -> list[Prompt]:
        if self.refuses:
            return []
        parent = parents.get(request.parent or "")
        order = random.Random(request.seed).sample(self.skills, len(self.skills))
        named = [request.skill or order[n % len(order)] for n in range(request.count)]
        texts = [f"{skill} {seed_of(request.seed, n) % 10**9}" for n, skill in enumerate(named)]
        return [Prompt.create(t, request.operation, s, parent) for t, s in zip(texts, named, strict=True)]

    def run(self) -> Loop:
        seed_calls = len(self.entries)
        self.spent.append(seed_calls)
        for index in range(self.rounds):
            name, judge = f"r{index}", JudgeAccuracy.of_error(self.wrong)
            round = RoundInfo(
                name, index, self.rounds, self.seed, 0, "sha", self.budget, self.spent[-1], seed_calls, judge
            )
            state = state_of(self.entries, *self.history)
            plan = self.policy.plan(state, round)
            parents = {entry.prompt.text: entry.prompt for entry in self.entries.values()}
            new = {p.id: p for request in plan.write for p in self.write(request, parents) if p.id not in self.entries}
            flips = random.Random(seed_of("judge", self.seed, name))
            evidence = [Evidence(k, "screen", self.reading(self.fails(p, index), flips)) for k, p in new.items()]
            evidence += [Evidence(key, "probe", self.reading(False, flips)) for key in plan.probe]  # all memorised
            state = with_candidates(state, list(new.values()))
            allowance = Allowance(self.budget - self.spent[-1], None, None)
            decisions = self.policy.decide(state, evidence, allowance, round)
            bought = [new[d.prompt_id] for d in decisions if d.kind == "buy"][: plan.budget_teacher_calls]
            self.plans.append(plan), self.decisions.append(decisions)
            self.mixes.append(self.policy.mix(state, evidence, round))
            for decision in decisions:
                if decision.kind in ("master", "revive", "retire"):
                    to = {"master": "mastered", "revive": "live", "retire": "retired"}[decision.kind]
                    self.entries[decision.prompt_id] = replace(self.entries[decision.prompt_id], state=to)  # type: ignore
            self.entries |= {p.id: live(p) for p in bought}
            self.spent.append(self.spent[-1] + len(bought))
            seen = [(state.entries[e.prompt_id].prompt, e) for e in evidence if e.kind == "screen"]
            failed = {prompt.id for prompt, e in seen if e.reading == "lacks"}
            tallies = [(p.skill, p.lineage_id, Tally(1, int(p.id in failed))) for p, _ in seen]
            self.history.append(history_of(name, judge, tallies, failed))
        return self

    def reading(self, failed: bool, flips: random.Random) -> Reading:
        return "lacks" if failed != (flips.random() < self.wrong) else "shows"


def test_it_is_a_policy() -> None:
    assert isinstance(ScreeningPolicy(), Policy)


def test_a_student_that_fails_the_unseen_makes_it_spend_everything_by_half_of_training() -> None:
    loop = Loop(ScreeningPolicy(), always, seeds(single=9, two=1)).run()
    assert loop.spent[5:] == [100] * 6
    assert loop.spent[1:5] == [28, 46, 64, 82]


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.3])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 200), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99))
def test_the_budget_is_never_exceeded(wrong: float, budget: int, rounds: int, share: float, seed: int) -> None:
    def fails(prompt: Prompt, index: int) -> bool:
        return seed_of(prompt.id) % 1000 < 1000 * share

    loop = Loop(ScreeningPolicy(), fails, seeds(single=3), budget, rounds, wrong, seed).run()
    assert loop.spent[-1] <= max(budget, 3)
    for plan, decisions in zip(loop.plans, loop.decisions, strict=True):
        assert sum(d.kind == "buy" for d in decisions) <= (plan.budget_teacher_calls or 0)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 12), st.integers(0, 60))
def test_arrival_order_and_the_order_of_entries_decide_nothing(draw: random.Random, index: int, count: int) -> None:
    new = candidates(single=count, two=20, counting=7)
    state = with_candidates(state_of(seeds(single=5, two=2), past(single=(20, 4), two=(6, 5))), new)
    evidence = [Evidence(p.id, "screen", draw.choice(["lacks", "shows", "unreadable"])) for p in new]
    policy, round = ScreeningPolicy(), info(index, judge=JudgeAccuracy.of_error(0.1))
    shuffled = draw.sample(evidence, len(evidence))
    entries = dict(draw.sample(list(state.entries.items()), len(state.entries)))
    other = replace(state, entries=entries)
    assert policy.decide(state, evidence, FREE, round) == policy.decide(other, shuffled, FREE, round)
    assert policy.mix(state, evidence, round) == policy.mix(other, shuffled, round)
    assert policy.plan(state, round) == policy.plan(other, round)


def past(name: str = "r0", error: float = 0.0, lineages: Mapping[str, Tally] | None = None, **skills) -> RoundHistory:
    return RoundHistory(
        name, JudgeAccuracy.of_error(error), {s: Tally(*t) for s, t in skills.items()}, lineages or {}, frozenset()
    )


def test_the_same_seed_decides_the_same_and_another_seed_something_else() -> None:
    def runs(seed: int) -> list[list[Decision]]:
        return Loop(ScreeningPolicy(), always, seeds(single=4, two=4), seed=seed, rounds=4).run().decisions

    assert runs(1) == runs(1)
    assert runs(1) != runs(2)


@pytest.mark.parametrize("rounds", [1, 2, 3, 10])
def test_a_student_that_memorised_everything_still_makes_it_spend_its_whole_budget(rounds: int) -> None:
    def fails_new(prompt: Prompt, index: int) -> bool:
        return prompt.skill == "two"  # the loop's probes of trained prompts all pass

    loop = Loop(ScreeningPolicy(), fails_new, seeds(single=9, two=1), budget=60, rounds=rounds).run()
    assert loop.spent[-1] == 60
    assert not [e for e in loop.entries.values() if e.prompt.skill == "two" and e.state != "live"]


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_a_student_that_can_do_everything_makes_it_stop_buying(wrong: float) -> None:
    loop = Loop(ScreeningPolicy(), never, seeds(single=6, two=4), budget=400, wrong=wrong).run()
    assert loop.spent[-1] == 10 if wrong == 0 else loop.spent[-1] < 60


def test_a_student_that_learns_makes_it_stop_after_it_learned() -> None:
    loop = Loop(ScreeningPolicy(), lambda prompt, index: index < 2, seeds(single=10)).run()
    assert loop.spent[1:] == [28, 46] + [46] * 8


def test_spending_follows_failure_and_no_skill_takes_more_than_half_before_the_last_buying_round() -> None:
    rates = {"single": 0.05, "two": 0.9, "counting": 0.45}

    def fails(prompt: Prompt, index: int) -> bool:
        return seed_of(prompt.id) % 1000 < 1000 * rates.get(prompt.skill, 0.2)

    loop = Loop(ScreeningPolicy(), fails, seeds(single=30), budget=400, rounds=10).run()
    bought = Counter(e.prompt.skill for e in loop.entries.values() if e.prompt.origin != "seed")
    assert loop.spent[-1] == 400
    assert bought["two"] > 1.3 * bought["counting"] > 2 * bought["single"]
    for plan, decisions in zip(loop.plans[:4], loop.decisions[:4], strict=True):
        skills = Counter(loop.entries[d.prompt_id].prompt.skill for d in decisions if d.kind == "buy")
        assert max(skills.values()) <= -(-(plan.budget_teacher_calls or 0) // 2)


def test_skills_absent_from_the_seeds_are_found_in_the_first_round() -> None:
    loop = Loop(ScreeningPolicy(), always, seeds(single=10), rounds=2).run()
    assert set(loop.history[0].skills) == set(SKILLS)
    assert {e.prompt.skill for e in loop.entries.values()} == set(SKILLS)


def test_named_skills_are_asked_for_and_no_others() -> None:
    plan = ScreeningPolicy(skills=["two", "binding"]).plan(state_of(seeds(single=10)), info())
    assert {request.skill for request in plan.write} == {"two", "binding"}


def test_a_round_writes_four_candidates_a_call_a_fifth_of_them_mutations() -> None:
    plan = ScreeningPolicy().plan(state_of(seeds(single=40, two=40), past(single=(40, 20), two=(40, 20))), info())
    assert plan.budget_teacher_calls == 18  # 10 + 90 / 5 - 10
    assert sum(request.count for request in plan.write) == 72
    mutations = sum(request.count for request in plan.write if request.operation == "mutation")
    assert mutations >= 0.2 * 72
    assert any(request.skill is None for request in plan.write)
    assert {request.count for request in plan.write if request.operation == "expansion"} <= {1, 2, 3, 4}
    assert len({request.request_id for request in plan.write}) == len(plan.write)
    assert plan.check_teacher and plan.compare_bought and plan.test_all_share == 0.1


def test_candidates_go_where_the_student_fails() -> None:
    state = state_of(seeds(single=40, two=40), past(single=(40, 0), two=(40, 40)))
    state = replace(state, history=(past("r0", single=(40, 0), two=(40, 40)),) * 3)
    asked: Counter[str | None] = Counter()
    for request in ScreeningPolicy().plan(state, info(budget=1000)).write:
        asked[request.skill] += request.count
    assert asked["two"] > 4 * asked["single"] >= 40


def test_after_the_last_purchase_it_only_measures() -> None:
    state = state_of(seeds(single=20, two=20), past(single=(40, 9), two=(40, 9)))
    plan = ScreeningPolicy().plan(state, info(7, bought=100))
    assert plan.budget_teacher_calls == 0
    assert sum(request.count for request in plan.write) >= 20
    new = candidates(single=10, two=10)
    assert not ScreeningPolicy().decide(with_candidates(state, new), screened(new), FREE, info(7, bought=100))


def test_without_a_known_end_each_round_spends_a_share_of_what_is_left() -> None:
    policy, state = ScreeningPolicy(pace=Pace(open_end_share=0.25)), state_of(seeds(single=3))
    assert policy.plan(state, info(0, None, 110, 10)).budget_teacher_calls == 25
    assert policy.plan(state, info(9, None, 110, 109)).budget_teacher_calls == 1
    assert policy.plan(state, info(9, None, 110, 110)).budget_teacher_calls == 0


def test_a_run_without_a_limit_is_told_what_to_set() -> None:
    for ask in (
        lambda policy: policy.check_budget(None),
        lambda policy: policy.plan(state_of({}), info(budget=None)),
        lambda policy: policy.decide(state_of({}), [], FREE, info(budget=None)),
    ):
        with pytest.raises(ValueError, match=r"budget_teacher_calls.*None\. Allowed: a number.*Set"):
            ask(ScreeningPolicy())
    ScreeningPolicy().check_budget(0)


def test_the_tighter_of_round_and_allowance_limits_the_purchases() -> None:
    new = candidates(single=50, two=50)
    state = with_candidates(state_of(seeds(single=3)), new)
    for calls, bought in ((5, 5), (0, 0), (None, 18), (1000, 18)):
        decisions = ScreeningPolicy().decide(state, screened(new), Allowance(calls, None, None), info())
        assert len(decisions) == bought


def test_unreadable_looks_and_passed_candidates_are_not_bought() -> None:
    new = candidates(single=8, two=8)
    state = with_candidates(state_of(seeds(single=3)), new)
    readings: list[Reading] = ["unreadable", "shows", "unreadable", "lacks"] * 4
    evidence = [Evidence(p.id, "screen", reading) for p, reading in zip(new, readings, strict=True)]
    exact = JudgeAccuracy(1.0, 1.0)
    bought = {d.prompt_id for d in ScreeningPolicy().decide(state, evidence, FREE, info(judge=exact))}
    assert bought == {p.id for p, reading in zip(new, readings, strict=True) if reading == "lacks"}


@pytest.mark.parametrize(("error", "failed", "buys"), [(0.3, 12, False), (0.3, 30, True), (0.5, 40, False)])
def test_what_the_judges_error_explains_is_not_bought(error: float, failed: int, buys: bool) -> None:
    new = candidates(single=40)
    state = with_candidates(state_of(seeds(single=3)), new)
    evidence = screened(new[:failed]) + screened(new[failed:], "shows")
    assert bool(ScreeningPolicy().decide(state, evidence, FREE, info(judge=JudgeAccuracy.of_error(error)))) is buys


def test_a_wrong_judge_does_not_hide_which_skill_fails() -> None:
    loop = Loop(ScreeningPolicy(), lambda p, index: p.skill == "two", seeds(single=8, two=2), 300, wrong=0.3).run()
    bought = Counter(e.prompt.skill for e in loop.entries.values() if e.prompt.origin != "seed")
    assert bought["two"] > 0.6 * bought.total()


def lineage_state(*tallies: tuple[int, int], state: str = "live") -> tuple[DatasetState, list[Prompt]]:
    """A lineage of one seed with a new round of children, and what earlier rounds saw of it."""
    entries = seeds(single=1, two=1)
    parent = next(iter(entries.values())).prompt
    entries[parent.id] = replace(entries[parent.id], state=state)  # type: ignore[arg-type]
    history = [past(f"r{n}", single=t, lineages={parent.lineage_id: Tally(*t)}) for n, t in enumerate(tallies)]
    return state_of(entries, *history), [parent]


@pytest.mark.parametrize(
    ("before", "failed_now", "looked_now", "mastered"),
    [
        ([(6, 0)], 0, 6, True),
        ([(6, 0)], 0, 3, False),  # too few looks now
        ([], 0, 6, False),  # one round only
        ([(6, 3)], 0, 6, False),
        ([(6, 0), (6, 3)], 0, 6, False),  # not successive
        ([(6, 0), (2, 2)], 0, 6, True),  # a round with two looks says nothing
        ([(6, 0)], 1, 6, False),
        ([(10, 1)], 1, 10, True),
    ],
)
def test_a_lineage_whose_unseen_children_pass_twice_is_mastered(
    before: list[tuple[int, int]], failed_now: int, looked_now: int, mastered: bool
) -> None:
    state, (parent,) = lineage_state(*before)
    new = candidates(parent, single=looked_now)
    evidence = screened(new[:failed_now]) + screened(new[failed_now:], "shows")
    state = with_candidates(state, new)
    decisions = ScreeningPolicy().decide(state, evidence, FREE, info(3))
    assert ([d.prompt_id for d in decisions if d.kind == "master"] == [parent.id]) is mastered
    assert not ([d for d in decisions if d.kind == "buy"] and mastered)  # nothing is bought for a mastered lineage
    mix = ScreeningPolicy().mix(state, evidence, info(3))
    assert mix and mix.replay_share == (0.25 if mastered else 0.0)
    kept = ScreeningPolicy(without={"deletion"}).decide(state, evidence, FREE, info(3))
    assert not [d for d in kept if d.kind != "buy"]


def test_a_mastered_lineage_has_no_children_and_is_probed() -> None:
    state, (parent,) = lineage_state((6, 0), (6, 0), state="mastered")
    plan = ScreeningPolicy().plan(state, info(3))
    assert parent.id in plan.probe
    assert parent.text not in {request.parent for request in plan.write}
    assert parent.id not in ScreeningPolicy(mastery=Mastery(mastered_probes=0)).plan(state, info(3)).probe


def mastered_state(lineages: int, size: int) -> DatasetState:
    entries = {}
    for number in range(lineages):
        root = Prompt.create(f"single root {number}", skill="single")
        family = [root, *(Prompt.create(f"single {number} {n}", "expansion", "single", root) for n in range(size - 1))]
        entries |= {p.id: replace(live(p), state="mastered") for p in family}
    return state_of(entries)


@pytest.mark.parametrize(
    ("lineages", "size", "failed", "error", "revived"),
    [(1, 8, 4, 0.0, 8), (1, 8, 1, 0.0, 0), (1, 8, 3, 0.3, 0), (8, 1, 8, 0.0, 8), (8, 1, 1, 0.0, 0), (1, 3, 3, 0.0, 0)],
)
def test_failing_probes_take_mastered_prompts_back(
    lineages: int, size: int, failed: int, error: float, revived: int
) -> None:
    state = mastered_state(lineages, size)
    evidence = [Evidence(key, "probe", "lacks" if n < failed else "shows") for n, key in enumerate(state.entries)]
    decisions = ScreeningPolicy().decide(state, evidence, FREE, info(judge=JudgeAccuracy.of_error(error)))
    assert sum(d.kind == "revive" for d in decisions) == len(decisions) == revived


def test_probes_of_mastered_prompts_are_few_and_change_every_round() -> None:
    state, policy = mastered_state(30, 6), ScreeningPolicy()
    first, second = (policy.plan(state, info(index)).probe for index in (0, 1))
    assert len(first) == len(set(first)) == 16
    assert set(first) != set(second)
    assert set(Counter(state.entries[key].prompt.lineage_id for key in first).values()) == {4}


def test_a_skill_that_ran_out_is_probed_and_never_counts_as_done() -> None:
    state = state_of(seeds(single=12, two=12), past(single=(3, 0), two=(40, 0)), past("r1", single=(3, 0), two=(40, 0)))
    policy = ScreeningPolicy()
    plan = policy.plan(state, info(3))
    assert {state.entries[key].prompt.skill for key in plan.probe} == {"single"} and len(plan.probe) == 10
    for reading in ("shows", "lacks"):  # what it draws from memory says nothing of what it would draw unseen
        evidence = [Evidence(key, "probe", reading) for key in plan.probe]
        mix = policy.mix(state, evidence, info(3))
        assert mix and mix.skill_weights["single"] == 1.0


def test_the_mix_draws_less_of_what_the_student_can_do() -> None:
    def weight(*tallies: tuple[int, int]) -> float:
        history = [past(f"r{n}", single=tally) for n, tally in enumerate(tallies)]
        mix = ScreeningPolicy().mix(state_of(seeds(single=2), *history), [], info(5))
        assert mix is not None
        return mix.skill_weights["single"]

    assert weight() == weight((40, 40)) == 1.0  # f = 1: not given up
    assert weight((40, 0)) == 1.0  # f = 1/2
    assert weight((40, 0), (40, 0)) == pytest.approx(0.75)  # f = 1/4
    assert weight(*[(40, 0)] * 6) == 0.35


def test_without_a_replay_share_mastered_prompts_are_drawn_like_live_ones() -> None:
    state = mastered_state(2, 4)
    mixes = [ScreeningPolicy(mastery=Mastery(replay_share=share)).mix(state, [], info()) for share in (0.25, 0.0)]
    assert [mix and mix.replay_share for mix in mixes] == [0.25, 0.0]


def test_expansion_off_writes_without_parents_and_mutation_off_with_parents_only() -> None:
    state = state_of(seeds(single=40), past(single=(40, 20)))
    for policy, operations in (
        (ScreeningPolicy(), {"expansion", "mutation"}),
        (ScreeningPolicy(without={"expansion"}), {"mutation"}),
        (ScreeningPolicy(without={"mutation"}), {"expansion"}),
        (ScreeningPolicy(without={"expansion", "mutation"}), set()),
    ):
        assert {request.operation for request in policy.plan(state, info()).write} == operations


def test_discrimination_off_buys_unscreened_in_seeded_order() -> None:
    new = candidates(single=60, two=60)
    state = with_candidates(state_of(seeds(single=3)), new)
    evidence = screened(new, "shows")
    policy = ScreeningPolicy(without={"discrimination"})
    first = policy.decide(state, evidence, FREE, info())
    assert len(first) == 18 and {d.kind for d in first} == {"buy"}
    assert first == policy.decide(state, [], FREE, info()) != policy.decide(state, [], FREE, info(seed=1))
    assert not ScreeningPolicy().decide(state, evidence, FREE, info())
    loop = Loop(policy, never, seeds(single=10)).run()
    assert loop.spent[-1] == 100


def test_a_full_lineage_gets_no_children_and_its_surplus_is_retired() -> None:
    root = Prompt.create("single root", skill="single")
    children = [Prompt.create(f"single {n}", "expansion", "single", root) for n in range(4)]
    entries = {p.id: live(p) for p in [root, *children]} | seeds(two=1)
    policy, state = ScreeningPolicy(pace=Pace(calls_per_lineage=3)), state_of(entries)
    assert {request.parent for request in policy.plan(state, info()).write if request.parent} == {"two seed 0"}
    retired = {d.prompt_id for d in policy.decide(state, [], FREE, info()) if d.kind == "retire"}
    assert len(retired) == 2 and retired < {p.id for p in children}
    other = state.entries[next(iter(seeds(two=1)))].prompt
    new = candidates(other, two=9)
    bought = policy.decide(with_candidates(state_of(seeds(two=1)), new), screened(new), FREE, info())
    assert [d.kind for d in bought] == ["buy", "buy"]


def test_a_writer_that_refuses_everything_leaves_the_run_as_it_was() -> None:
    loop = Loop(ScreeningPolicy(), always, seeds(single=10), refuses=True).run()
    assert loop.spent[-1] == 10
    assert not any(loop.decisions)
    assert all(mix and set(mix.skill_weights) == {"single"} for mix in loop.mixes)


def test_an_empty_dataset_gets_mutations() -> None:
    plan = ScreeningPolicy().plan(state_of({}), info(bought=0))
    assert {(request.operation, request.skill) for request in plan.write} == {("mutation", None)}
    assert ScreeningPolicy().decide(state_of({}), [], FREE, info()) == []


@pytest.mark.parametrize(
    ("group", "wrong"),
    [
        (Screening, {"mutation_share": 1.2}),
        (Screening, {"candidates_per_call": 0}),
        (Screening, {"error_deviations": -0.5}),
        (Weighting, {"least_rate": 0.0}),
        (Weighting, {"smoothing": float("nan")}),
        (Weighting, {"least_weight": 0.0}),
        (Weighting, {"loss_power": -0.5}),
        (Weighting, {"loss_power": 2.5}),
        (Weighting, {"most_losses": 0}),
        (Mastery, {"replay_share": -0.1}),
        (Mastery, {"mastered_probes": -1}),
        (Mastery, {"min_looks_per_lineage": 0}),
        (Pace, {"calls_per_lineage": 0}),
        (Pace, {"buying_share": 0.0}),
        (Pace, {"early_share": 1.5}),
    ],
)
def test_a_setting_out_of_range_is_refused(group: Callable[..., object], wrong: dict) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"\w+\.{name} is .*\. Allowed: .*\. Leave {name} out to take its default\."):
        group(**wrong)


def test_no_skill_at_all_and_an_unknown_operation_are_refused() -> None:
    with pytest.raises(ValueError, match=r"skills is \[\]\. Allowed: at least one skill, or null\. Write"):
        ScreeningPolicy(skills=[])
    with pytest.raises(ValueError, match=r"without names 'replay'\. Allowed: discrimination, .*\. Write `without"):
        ScreeningPolicy(without={"replay"})  # type: ignore[arg-type]


def test_the_order_of_the_operations_left_out_tells_nobody_apart() -> None:
    """What stands in a fingerprint must not depend on the order in which a set is listed."""
    assert ScreeningPolicy(without={"mutation", "deletion"}).without == ("deletion", "mutation")
