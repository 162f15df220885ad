"""The round against a real store: order of steps, budget, repetition, and values in place of exceptions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import pytest

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.opening import run_seeding
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundParts, RoundWatch, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.judges.faithfulness_judge import FaithfulnessJudge
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.policies.screening.policy import ScreeningPolicy
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    GoldItem,
    ImageRequest,
    Prompt,
    RevisionChange,
    RoundInfo,
    RoundPlan,
    TrainingMix,
    WriteRequest,
)
from evolvedirector.records.questions import Answer, Question
from evolvedirector.store.dataset import DatasetStore
from tests import toys


class World:
    """A dataset root with seeds bought, and what is needed to run rounds on it."""

    def __init__(self, folder: Path, **parts: Any) -> None:
        self.store = DatasetStore(folder / "data", create=True)
        self.teachers = parts.get("teachers") or {"toy": toys.ToyTeacher()}
        self.judge = parts.get("judge") or toys.ToyJudge()
        self.policy = parts.get("policy") or EvolveDirectorPolicy()
        self.writer = parts.get("writer") or toys.ToyWriter()
        self.budget = parts.get("budget") or Budget()
        self.student_tone = parts.get("student_tone", 128)
        self.drawn: list[str] = []
        seeds = parts.get("seeds", toys.ToyPrompts(8)).prompts()
        self.sha = self.store.publish(None, "import", RevisionChange(prompts=tuple(seeds)))

    def draw(self, requests: Sequence[ImageRequest]) -> list[bytes]:
        self.drawn += [request.prompt for request in requests]
        return [toys.flat_png(self.student_tone) for _ in requests]

    def context(self, round_id: str = "r1", index: int = 0, watch: RoundWatch | None = None, **changes: Any) -> Round:
        student = StudentPart(self.draw, chunk=4)
        rewards = changes.get("rewards", {})
        tenants = tenants_of(student, self.teachers, self.judge, self.writer, rewards)
        executor = LocalExecutor(tenants, unit=8)
        who = (student, self.teachers, self.judge, self.writer, self.policy)
        parts = RoundParts(self.store, executor, *who, self.budget, 8, **changes)
        info = RoundInfo(round_id, index, None, 0, 10 * (index + 1), self.sha)
        return Round(parts, info, watch or RoundWatch())

    def seed(self) -> str:
        self.sha = run_seeding(self.context("seeding"))
        return self.sha

    def asked(self) -> list[str]:
        return [prompt for teacher in self.teachers.values() for prompt in teacher.asked]


@pytest.fixture
def world_of(tmp_path: Path):
    worlds = []

    def make(**parts: Any) -> World:
        worlds.append(World(tmp_path / str(len(worlds)), **parts))
        return worlds[-1]

    yield make
    for world in worlds:
        world.store.close()


def texts(entries: Sequence[Any]) -> set[str]:
    return {entry.prompt.text for entry in entries}


def test_seeding_buys_each_seed_once(world_of) -> None:
    world = world_of()
    first = world.seed()
    assert len(world.asked()) == 8
    assert len(world.store.state(first).in_state("live")) == 8
    assert world.seed() == first
    assert len(world.asked()) == 8


def test_seeding_keeps_within_the_budget_but_is_no_round(world_of) -> None:
    world = world_of(budget=Budget(budget_teacher_calls=5, teacher_calls_per_round=1))
    world.seed()
    assert len(world.asked()) == 5
    assert len(world.store.state(world.sha).in_state("candidate")) == 3


def test_a_budget_of_zero_asks_nobody(world_of) -> None:
    world = world_of(budget=Budget(budget_teacher_calls=0))
    before = world.sha
    assert world.seed() == before
    assert world.asked() == []


def test_the_published_round(world_of) -> None:
    world = world_of()  # the student draws 128 for every tone, so it wins where the teacher is just as far: nowhere
    world.seed()
    child = run_round(world.context())
    state = world.store.state(child)
    row = world.store.ledger.rounds.all()[-1].figures
    assert row.decisions["expand"] == 8
    assert row.compared["teacher"] == 8
    children = [e for e in state.in_state("live") if e.prompt.origin == "expansion"]
    assert len(children) == row.written == len(world.asked()) - 8 > 12
    assert all(entry.sample and entry.sample.teacher == "toy" for entry in children)
    assert {e.prompt.parent_id for e in children} <= {p.id for p in toys.ToyPrompts(8).prompts()}


def test_what_the_student_can_do_is_retired_but_never_everything(world_of) -> None:
    class Pleased(toys.ToyJudge):
        def look(self, pairs):
            for pair in pairs:  # the student's flat 128 is better, wherever it stands
                first = abs(toys.mean_tone(pair.first) - 128) < 1
                yield toys.Look(pair.item_id, 0.9 if first else 0.1)

    world = world_of(judge=Pleased(), policy=EvolveDirectorPolicy(without={"mutation"}))
    world.seed()
    state = world.store.state(run_round(world.context()))
    assert len(state.in_state("live")) == 1
    assert len(state.in_state("retired")) == 7
    assert world.store.ledger.rounds.all()[-1].figures.kept_to_train == 1


@pytest.mark.parametrize(("tie_margin", "verdict"), [(0.0, "teacher"), (0.3, "teacher"), (0.45, "tie")])
def test_a_preference_within_the_margin_is_a_tie(world_of, tie_margin: float, verdict: str) -> None:
    world = world_of()  # the toy judge is 0.9 sure
    world.seed()
    run_round(world.context(tie_margin=tie_margin))
    assert world.store.ledger.rounds.all()[-1].figures.compared == {verdict: 8}


def test_every_look_invalid_keeps_everything_and_is_counted(world_of) -> None:
    world = world_of(judge=toys.ToyJudge(mass=0.1))
    world.seed()
    state = world.store.state(run_round(world.context()))
    figures = world.store.ledger.rounds.all()[-1].figures
    assert len(state.in_state("live")) == 8
    assert figures.compared["invalid"] == figures.decisions["keep"] == 8


def test_a_repeated_round_spends_nothing_and_publishes_the_same(world_of) -> None:
    world = world_of()
    world.seed()
    child = run_round(world.context())
    asked, judged, drawn = len(world.asked()), world.judge.asked, len(world.drawn)
    assert run_round(world.context()) == child
    assert (len(world.asked()), world.judge.asked, len(world.drawn)) == (asked, judged, drawn)


@pytest.mark.parametrize("after_units", range(1, 9))
def test_a_round_stopped_anywhere_is_finished_without_paying_twice(world_of, after_units: int) -> None:
    reference = world_of()
    reference.seed()
    expected = run_round(reference.context())
    world = world_of()
    world.seed()
    left = [after_units]

    def stop() -> str | None:
        left[0] -= 1
        return "a test" if left[0] < 0 else None

    try:
        run_round(world.context(watch=RoundWatch(stop)))
    except RoundInterrupted as error:
        assert "a test" in str(error) and "--ckpt_path last" in str(error)
    assert run_round(world.context()) == expected
    assert sorted(world.asked()) == sorted(reference.asked())
    assert world.store.ledger.spend() == reference.store.ledger.spend()


@pytest.mark.parametrize("budget", [8, 9, 15, 20])
def test_the_budget_is_never_exceeded(world_of, budget: int) -> None:
    world = world_of(budget=Budget(budget_teacher_calls=budget))
    world.seed()
    for index in range(3):
        world.sha = run_round(world.context(f"r{index}", index))
    assert len(world.asked()) == world.store.ledger.spend().teacher_calls == budget


def test_a_spent_budget_asks_the_writer_for_nothing(world_of) -> None:
    class Counting(toys.ToyWriter):
        asked = 0

        def write(self, requests):
            self.asked += len(requests)
            yield from super().write(requests)

    world = world_of(budget=Budget(budget_teacher_calls=8), writer=Counting())
    world.seed()
    run_round(world.context())
    assert world.writer.asked == 0
    assert world.store.ledger.rounds.all()[-1].figures.unwritten == 24


def test_the_budget_of_looks_and_of_money_and_of_lineages(world_of) -> None:
    world = world_of(budget=Budget(budget_judge_calls=3))
    world.seed()
    run_round(world.context())
    assert world.judge.asked == 3
    assert world.store.ledger.rounds.all()[-1].figures.looks_beyond_budget == 5
    dear = world_of(teachers={"toy": toys.ToyTeacher(cost_usd=1.0)}, budget=Budget(budget_cost_usd=8.0))
    dear.seed()
    run_round(dear.context())
    assert len(dear.asked()) == 8
    narrow_purse = world_of(teachers={"toy": toys.ToyTeacher(cost_usd=0.3)}, budget=Budget(budget_cost_usd=1.0))
    narrow_purse.seed()
    assert len(narrow_purse.asked()) == 3  # 4 x 0.30 would be more than 1.00
    narrow = world_of(budget=Budget(teacher_calls_per_lineage=2))
    narrow.seed()
    run_round(narrow.context())
    assert max(narrow.store.ledger.calls.by_lineage().values()) == 2


def test_a_teacher_that_refuses_is_passed_over(world_of) -> None:
    teachers = {"shy": toys.ToyTeacher("shy", refuses=True), "kind": toys.ToyTeacher("kind")}
    world = world_of(teachers=teachers)
    state = world.store.state(world.seed())
    assert {entry.sample.teacher for entry in state.in_state("live")} == {"kind"}
    assert len(state.in_state("live")) == 8
    assert world.store.ledger.spend().teacher_calls == len(world.asked()) > 8


def test_prompts_that_nobody_draws_are_retired(world_of) -> None:
    class Shy(toys.ToyTeacher):
        def generate(self, requests):
            for reply, request in zip(super().generate(requests), requests, strict=True):
                yield reply if request.prompt == "tone 7" else replace(reply, status="refusal", image=None)

    world = world_of(teachers={"a": Shy("a"), "b": Shy("b")})
    state = world.store.state(world.seed())
    assert (len(state.in_state("retired")), len(state.in_state("live"))) == (7, 1)
    assert len(world.asked()) == 15


def test_a_damaged_image_is_a_paid_failure(world_of) -> None:
    class Broken(toys.ToyTeacher):
        def generate(self, requests):
            for reply in super().generate(requests):
                yield replace(reply, image=b"<html>not an image</html>")

    world = world_of(teachers={"toy": Broken()})
    with pytest.raises(RuntimeError, match=r"teacher: failure 8.*teacher toy 8 x unusable image"):
        world.seed()
    assert len(world.store.state(world.store.current()).in_state("candidate")) == 8
    assert world.store.ledger.spend().teacher_calls == 8


def test_an_outage_retires_nothing_and_is_over_when_it_is_over(world_of) -> None:
    class Unreliable(toys.ToyTeacher):
        down = True

        def generate(self, requests):
            for reply in super().generate(requests):
                yield replace(reply, status="failure", image=None, reason="503") if self.down else reply

    world = world_of(teachers={"toy": Unreliable()})
    before = world.sha
    with pytest.raises(RuntimeError, match=r"None of 8 seed prompts.*teacher toy 8 x 503\..*Mend it"):
        world.seed()
    assert world.store.current() == before  # no revision that nobody could train on
    world.teachers["toy"].down = False
    state = world.store.state(world.seed())
    assert len(state.in_state("live")) == 8
    assert world.store.ledger.spend().teacher_calls == len(world.asked()) == 16
    assert world.store.ledger.spend().lost_calls == 0


class UnreliableWriter(toys.ToyWriter):
    """Writes nothing at first; `answered` says whether that is an answer or an outage."""

    def __init__(self, answered: bool) -> None:
        self.answered, self.works, self.asked = answered, False, 0

    def write(self, requests):
        for reply in super().write(requests):
            self.asked += 1
            yield reply if self.works else replace(reply, texts=(), refusal="nothing", answered=self.answered)


def killed_after_writing(world: World) -> None:
    world.seed()
    with pytest.raises(RoundInterrupted):
        run_round(world.context(watch=RoundWatch(lambda: "killed" if world.writer.asked else None)))
    assert world.writer.asked == 8
    world.writer.works = True


def test_a_writers_outage_is_over_when_it_is_over(world_of) -> None:
    world = world_of(writer=UnreliableWriter(answered=False))
    killed_after_writing(world)
    child = run_round(world.context())
    assert world.writer.asked == 16
    assert len([e for e in world.store.state(child).in_state("live") if e.prompt.origin == "expansion"]) > 12


def test_an_empty_answer_of_a_writer_is_final(world_of) -> None:
    world = world_of(writer=UnreliableWriter(answered=True))
    killed_after_writing(world)
    with pytest.warns(UserWarning, match="may have no news"):
        child = run_round(world.context())
    assert world.writer.asked == 8 and len(world.store.state(child).in_state("live")) == 8


def test_a_writer_that_stays_loaded_is_closed_before_anybody_else_works(world_of) -> None:
    events: list[str] = []

    class Loaded(toys.ToyWriter):
        def write(self, requests):
            events.append("write")
            if len(events) > 8:
                raise RuntimeError("no memory")
            yield from super().write(requests)

        def close(self):
            events.append("close")

    class Noting(toys.ToyJudge):
        def check(self, items):
            events.append("look")
            yield from super().check(items)

    world = world_of(writer=Loaded(), judge=Noting(), policy=Screening())
    world.seed()
    del events[:]
    run_round(world.context())
    in_turn = [event for event, _ in groupby(events)]
    assert in_turn[:3] == ["write", "close", "look"] and "write" not in in_turn[2:]
    events += [""] * 9
    with pytest.raises(RuntimeError, match="no memory"):
        run_round(world.context("r2", 1))
    assert events[-2:] == ["write", "close"]


def test_an_outage_of_the_writer_is_told_as_one_and_the_next_round_writes(world_of) -> None:
    world = world_of(writer=UnreliableWriter(answered=False))
    world.seed()
    with pytest.warns(UserWarning) as told:
        world.sha = run_round(world.context())
    assert [str(warning.message) for warning in told] == ["The writer writes nothing at present: nothing"]
    assert world.store.ledger.rounds.all()[-1].figures.refused["writer not reached"] == 24
    world.writer.works = True
    assert len(world.store.state(run_round(world.context("r2", 1))).in_state("live")) > 20


def test_a_silent_teacher_and_a_silent_judge_are_recorded(world_of) -> None:
    class Silent(toys.ToyTeacher):
        def generate(self, requests):
            yield from list(super().generate(requests))[::2]

    world = world_of(teachers={"toy": Silent()})
    state = world.store.state(world.seed())
    assert len(state.in_state("live")) == len(state.in_state("candidate")) == 4

    class Mute(toys.ToyJudge):
        def look(self, pairs):
            yield toys.Look("nobody asked", 0.9)

    mute = world_of(judge=Mute())
    mute.seed()
    run_round(mute.context())
    assert mute.store.ledger.rounds.all()[-1].figures.compared["invalid"] == 8


class Screening:
    """The screening order, in ten lines: write, screen, buy what fails, compare."""

    checks_seeds = True

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        write = WriteRequest(f"w{round.round_id}", "mutation", None, "tone", 12, round.index)
        return RoundPlan(write=(write,), both_orders=True, check_teacher=True, compare_bought=True)

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        failing = [e.prompt_id for e in evidence if e.kind == "screen" and e.reading == "lacks"]
        return [Decision("buy", key) for key in failing][: allowance.teacher_calls]

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix:
        return TrainingMix({"tone": 2.0}, 0.25)


def test_the_screening_round_buys_only_what_fails(world_of) -> None:
    world = world_of(policy=Screening(), budget=Budget(teacher_calls_per_round=5))
    world.seed()
    child = run_round(world.context())
    state = world.store.state(child)
    bought = [e for e in state.in_state("live") if e.prompt.origin == "mutation"]
    assert 0 < len(bought) <= 5
    assert all(abs(toys.tone_of(entry.prompt.text) - 128) >= 10 for entry in bought)
    kinds = {(e.kind, e.reading or e.verdict) for e in world.store.ledger.looks.evidence("r1")}
    assert ("compare", "teacher") in kinds and ("faithfulness", "shows") in kinds and ("screen", "lacks") in kinds


def test_an_unfaithful_image_goes_to_the_next_teacher_once(world_of) -> None:
    class Wrong(toys.ToyTeacher):
        def generate(self, requests):
            for reply in super().generate(requests):
                yield replace(reply, image=toys.flat_png(128))

    teachers = {"wrong": Wrong("wrong"), "wrong too": Wrong("wrong too"), "right": toys.ToyTeacher("right")}

    class Seeds:
        def prompts(self) -> list[Prompt]:  # what every teacher draws rightly, so that nobody has a bad name yet
            return [Prompt.create(f"tone {tone}", skill="tone") for tone in (126, 128, 130)]

    world = world_of(teachers=teachers, policy=Screening(), seeds=Seeds())
    world.seed()
    child = run_round(world.context())
    states = {e.prompt.id: e for e in world.store.state(child).entries.values() if e.prompt.origin == "mutation"}
    per_prompt: dict[str, int] = {}
    for name in ("wrong", "wrong too"):
        for prompt in teachers[name].asked[:]:
            per_prompt[prompt] = per_prompt.get(prompt, 0) + 1
    retired = [e for e in states.values() if e.state == "retired"]
    live = [e for e in states.values() if e.state == "live"]
    assert retired and live
    assert all(entry.sample.teacher == "right" for entry in live)
    assert all(per_prompt[entry.prompt.text] == 2 for entry in retired)  # two wrong images and no third try


def test_held_out_prompts_never_enter(world_of) -> None:
    world = world_of()
    world.seed()
    world.store.ledger.prompts.hold_out([Prompt.create(f"tone {tone}").id for tone in range(256)])
    with pytest.warns(UserWarning, match=r"24 of 24 texts of the writer were refused.*held out 24"):
        state = world.store.state(run_round(world.context()))
    assert len(state.entries) == 8
    assert world.store.ledger.rounds.all()[-1].figures.refused["held out"] == 24


def test_a_policy_that_decides_about_nobody_is_told_so(world_of) -> None:
    class Confused(EvolveDirectorPolicy):
        def decide(self, state, evidence, allowance, round):
            return [Decision("retire", "unknown")]

    world = world_of(policy=Confused())
    sha = world.seed()
    with pytest.raises(ValueError, match=r"decided 'retire' for prompt 'unknown'.*Return decisions only"):
        run_round(world.context())
    assert world.store.current() == sha


def test_a_judge_that_raises_costs_what_was_asked_and_the_round_can_be_finished(world_of) -> None:
    class Failing(toys.ToyJudge):
        broken = True

        def look(self, pairs):
            for position, look in enumerate(super().look(pairs)):
                if self.broken and position == 3:
                    raise RuntimeError("no power")
                yield look

    world = world_of(judge=Failing())
    world.seed()
    with pytest.raises(RuntimeError, match="no power"):
        run_round(world.context())
    world.judge.broken = False
    run_round(world.context())
    spend = world.store.ledger.spend()
    assert spend.judge_calls == 8 + spend.lost_calls
    assert 0 < spend.lost_calls <= 8


class Notes(Screening):
    """Remembers what the round told it."""

    def __init__(self) -> None:
        self.seen: list[tuple[RoundInfo, DatasetState]] = []

    def decide(self, state, evidence, allowance, round):
        self.seen.append((round, state))
        return super().decide(state, evidence, allowance, round)


def test_a_policy_knows_its_spending_its_past_and_its_candidates(world_of) -> None:
    policy = Notes()
    world = world_of(policy=policy, budget=Budget(budget_teacher_calls=30, teacher_calls_per_round=4))
    world.seed()
    world.sha = run_round(world.context("r1"))
    run_round(world.context("r2", index=1))
    (first, before), (second, after) = policy.seen
    assert (first.budget_teacher_calls, first.seed_calls, first.teacher_calls) == (30, 8, 8)
    assert (second.seed_calls, second.teacher_calls) == (8, 12)
    assert [entry.prompt.skill for entry in before.in_state("candidate")] == ["tone"] * 12
    assert before.history == () and [past.round_id for past in after.history] == ["r1"]
    assert after.history[0].skills["tone"].failed >= 4


def test_the_revision_draws_as_the_policy_says(world_of) -> None:
    world = world_of(policy=Screening())
    world.seed()
    state = world.store.state(run_round(world.context()))
    assert state.skill_weights == {"tone": 2.0} and state.replay_share == 0.25


def test_purchases_beyond_the_allowance_are_cut_and_counted(world_of) -> None:
    class Greedy(Screening):
        def decide(self, state, evidence, allowance, round):
            return [Decision("buy", entry.prompt.id) for entry in state.in_state("candidate")]

    world = world_of(policy=Greedy(), budget=Budget(teacher_calls_per_round=5))
    world.seed()
    run_round(world.context())
    assert world.store.ledger.spend("r1").teacher_calls == 5
    assert world.store.ledger.rounds.all()[-1].figures.buys_beyond_allowance == 7


def test_a_plan_may_buy_unseen(world_of) -> None:
    class Blind(Screening):
        checks_seeds = False

        def plan(self, state, round):
            return replace(super().plan(state, round), screen=False, check_teacher=False, compare_bought=False)

        def decide(self, state, evidence, allowance, round):
            return [Decision("buy", entry.prompt.id) for entry in state.in_state("candidate")]

    world = world_of(policy=Blind())
    world.seed()
    run_round(world.context())
    assert world.drawn == [] and world.judge.asked == 0
    assert len(world.store.ledger.rounds.decisions("r1")) == 12


class AlwaysYes(toys.ToyJudge):
    fingerprint = "always yes"

    def check(self, items):
        return (replace(look, probability=0.9) for look in super().check(items))


def test_a_judge_below_its_floor_skips_the_round_and_keeps_the_revision(world_of) -> None:
    world = world_of(judge=AlwaysYes(), policy=Screening())
    sha = world.seed()
    with pytest.warns(UserWarning, match=r"Round 1 is skipped, training goes on: .*says yes"):
        assert run_round(world.context(judge_health=JudgeHealth())) == sha
    row = world.store.ledger.rounds.all()[-1]
    assert row.figures.skipped and row.child_sha == sha
    assert "says yes" in row.figures.skipped_because
    assert world.store.ledger.spend("r1").teacher_calls == 0


def test_a_judge_that_passes_decides_and_its_error_is_known(world_of) -> None:
    policy = Notes()
    world = world_of(policy=policy)
    world.seed()
    run_round(world.context(judge_health=JudgeHealth()))
    assert not policy.seen[0][0].judge.is_known, "canaries alone say nothing of its error"
    assert world.store.ledger.rounds.all()[-1].figures.judge["canary blank"] == 1.0


def test_unfaithful_images_of_seeds_are_not_trained_on(world_of) -> None:
    class Wrong(toys.ToyTeacher):
        def generate(self, requests):
            return (replace(reply, image=toys.flat_png(255)) for reply in super().generate(requests))

    world = world_of(teachers={"wrong": Wrong("wrong"), "right": toys.ToyTeacher("right")}, policy=Screening())
    state = world.store.state(world.seed())
    assert {entry.sample.teacher for entry in state.in_state("live")} == {"right"}


def test_a_finished_round_that_is_repeated_ends_where_it_ended(world_of) -> None:
    world = world_of(policy=Screening(), budget=Budget(teacher_calls_per_round=4))
    start = world.seed()
    first = run_round(world.context("r1"))
    figures = world.store.ledger.rounds.all()[-1].figures
    world.sha = first
    run_round(world.context("r2", index=1))
    world.sha = start
    assert run_round(world.context("r1")) == first
    assert world.store.ledger.rounds.all()[0].figures == figures


def test_a_plan_about_nobody_is_told_so(world_of) -> None:
    class Confused(Screening):
        def plan(self, state, round):
            return RoundPlan(probe=("unknown",))

    world = world_of(policy=Confused())
    world.seed()
    with pytest.raises(ValueError, match="'unknown', which is none of the 8 prompts"):
        run_round(world.context())


class AlwaysNo(toys.ToyJudge):
    fingerprint = "always no"

    def check(self, items):
        return (replace(look, probability=0.1) for look in super().check(items))


def test_seeds_that_nobody_accepts_end_the_run_with_the_reason_and_can_be_taken_up_again(world_of) -> None:
    world = world_of(judge=AlwaysNo(), policy=Screening())
    with pytest.raises(
        RuntimeError, match=r"None of 8 seed prompts got an image.*teacher: unfaithful 8.*judge refuses"
    ):
        world.seed()
    calls = world.store.ledger.spend().teacher_calls
    world.judge = toys.ToyJudge()
    assert len(world.store.state(world.seed()).in_state("live")) == 8
    assert world.store.ledger.spend().teacher_calls == calls  # images bought before are taken up


def test_a_judge_below_its_floor_does_not_check_the_seeds(world_of) -> None:
    world = world_of(judge=AlwaysNo(), policy=Screening())
    gold = [
        GoldItem(str(n), toys.flat_png(8 * n), f"tone {8 * n if n % 2 else 255 - 8 * n}", bool(n % 2))
        for n in range(31)
    ]

    class Gold:
        def items(self):
            return gold

    with pytest.warns(UserWarning, match="images of the seeds are not checked: .*says no"):
        run_seeding(world.context("seeding", judge_health=JudgeHealth(gold=Gold())))
    assert len(world.store.state(world.store.current()).in_state("live")) == 8


def test_a_text_written_again_counts_for_the_lineage_it_was_seen_in(world_of) -> None:
    class SameTexts(Notes):
        def plan(self, state, round):
            parent = list(state.entries.values())[round.index].prompt
            write = WriteRequest(f"w{round.index}", "expansion", parent.text, "tone", 4, 1)
            return RoundPlan(write=(write,))

        def decide(self, state, evidence, allowance, round):
            self.seen.append((round, state))
            return []

    policy = SameTexts()
    world = world_of(policy=policy)
    world.seed()
    parents = [entry.prompt.lineage_id for entry in world.store.state(world.store.current()).entries.values()]
    for index in range(3):
        world.sha = run_round(world.context(f"r{index}", index=index))
    assert [list(past.lineages) for past in policy.seen[-1][1].history] == [[parents[0]], [parents[1]]]


class Lacking(toys.ToyTeacher):
    """Draws tones from 28 on too bright: wrong, but nearer than the student's."""

    def generate(self, requests):
        for request, reply in zip(requests, super().generate(requests), strict=True):
            tone = toys.tone_of(request.prompt)
            yield replace(reply, image=toys.flat_png(tone + 30 if tone >= 28 else tone))


class Tones:
    """Answers whether a picture shows the tone that a question names."""

    fingerprint = "tones"

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for question in questions:
            tone = int(re.findall(r"tone (\d+)", question.text)[0])
            yes = 0.9 if abs(toys.mean_tone(question.images[0]) - tone) < 10 else 0.1
            yield Answer(question.item_id, (yes, 1 - yes))

    def close(self) -> None:
        pass


def expanded_tones(world: World) -> set[int]:
    world.seed()
    state = world.store.state(run_round(world.context()))
    children = [entry.prompt for entry in state.entries.values() if entry.prompt.origin == "expansion"]
    return {toys.tone_of(state.entries[child.parent_id].prompt.text) for child in children}


def test_an_unfaithful_teacher_image_never_triggers_expansion(world_of) -> None:
    teachers = {"lacking": Lacking()}
    assert max(expanded_tones(world_of(teachers=teachers))) >= 28, "a judge of pairs alone follows it"
    tones = expanded_tones(world_of(teachers=teachers, judge=FaithfulnessJudge(Tones())))
    assert tones and max(tones) < 28
    tones = expanded_tones(world_of(teachers=teachers, policy=EvolveDirectorPolicy(check_teacher=True)))
    assert tones and max(tones) < 28


def test_the_default_policy_writes_no_child_of_a_prompt_that_no_teacher_draws(world_of) -> None:
    class Noting(toys.ToyWriter):
        parents: ClassVar[list[str]] = []

        def write(self, requests):
            self.parents.extend(request.parent for request in requests if request.parent)
            return super().write(requests)

    world = world_of(teachers={"lacking": Lacking()}, policy=ScreeningPolicy(), writer=Noting(),
                     budget=Budget(budget_teacher_calls=40))  # fmt: skip
    world.seed()
    assert {toys.tone_of(entry.prompt.text) >= 28 for entry in world.store.state(world.sha).in_state("retired")} == {
        True
    }
    run_round(world.context())
    assert Noting.parents and all(toys.tone_of(parent) < 28 for parent in Noting.parents)
