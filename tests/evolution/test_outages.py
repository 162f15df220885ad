"""Nobody answers: that is said, it is told from a normal run, and nothing is bought blindly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.errors import RunError
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.opening import run_seeding
from evolvedirector.evolution.round import run_round
from evolvedirector.judges import JudgeHealth
from evolvedirector.records import WriteReply
from evolvedirector.store.ledger import Fault
from tests import toys
from tests.evolution.test_round import Screening, World

KEY = "sk-" + "a1B2" * 10
DEATHS: dict[str, dict[str, Any]] = {
    "busy": {"covered_mass": 0.0, "reason": f"HTTP 429: too many requests, key={KEY}"},
    "no connection": {"covered_mass": 0.0, "reason": "connection refused", "sent": False},
    "cut off": {"covered_mass": 0.0, "reason": "timed out", "cut_off": True},
    "junk": {"probability": math.nan, "reason": "<html>bad gateway"},
    "empty": {"covered_mass": 0.0},
}


class Mortal(toys.ToyJudge):
    """Answers like the toy while it lives; dead, in one of several ways; None: not at all."""

    def __init__(self, death: dict[str, Any] | None = None, alive: bool = False) -> None:
        super().__init__()
        self.alive, self.death = alive, death

    def _said(self, looks: Iterator[Any]) -> Iterator[Any]:
        for look in looks:
            if self.alive:
                yield look
            elif self.death is not None:
                yield replace(look, **self.death)

    def look(self, pairs: Any) -> Iterator[Any]:
        return self._said(super().look(pairs))

    def check(self, items: Any) -> Iterator[Any]:
        return self._said(super().check(items))


@pytest.fixture
def world_of(tmp_path: Path) -> Iterator[Any]:
    worlds: list[World] = []

    def make(**parts: Any) -> World:
        worlds.append(World(tmp_path / str(len(worlds)), policy=Screening(), **parts))
        return worlds[-1]

    yield make
    for world in worlds:
        world.store.close()


def seed(world: World) -> str:
    world.sha = run_seeding(world.context("seeding", judge_health=JudgeHealth()))
    return world.sha


@pytest.mark.parametrize("death", [*DEATHS, "silence"])
def test_a_dead_judge_is_noticed_before_a_seed_is_bought_and_a_mended_one_is_asked_anew(
    world_of: Any, death: str
) -> None:
    judge = Mortal(DEATHS.get(death))
    world = world_of(judge=judge)
    for _ in range(2):  # the answers of the first start do not decide the second
        with pytest.raises(RunError, match=r"Nothing is bought for 8 seed prompts: .* 0 of 8 readable replies") as said:
            seed(world)
        assert KEY not in str(said.value)
        assert DEATHS.get(death, {}).get("reason", "no answer")[:12] in str(said.value) or death == "empty"
    assert world.asked() == [] and world.store.ledger.spend().teacher_calls == 0
    judge.alive = True
    assert len(world.store.state(seed(world)).in_state("live")) == 8
    asked = judge.asked
    seed(world)
    assert judge.asked == asked, "a start with a judge that answers is asked once"


def test_a_judge_that_dies_later_skips_the_round_and_wakes_up_with_the_next(world_of: Any) -> None:
    judge = Mortal(DEATHS["busy"], alive=True)
    world = world_of(judge=judge)
    start, calls = seed(world), len(world.asked())
    judge.alive = False
    with pytest.warns(UserWarning, match=r"Round 1 is skipped.*readable replies.*x HTTP 429: too many requests"):
        assert run_round(world.context("r1", judge_health=JudgeHealth())) == start
    assert len(world.asked()) == calls
    faults = world.store.ledger.faults.of("r1")
    assert [fault.part for fault in faults] == ["judge"] and KEY not in faults[0].reason
    judge.alive = True
    assert run_round(world.context("r2", 1, judge_health=JudgeHealth())) != start, "old silence is asked about again"


def test_three_questions_are_enough_to_see_that_nobody_answers(world_of: Any) -> None:
    judge = Mortal(DEATHS["busy"], alive=True)
    world = world_of(judge=judge, seeds=toys.ToyPrompts(1))
    start = seed(world)
    judge.alive = False
    with pytest.warns(UserWarning, match="Round 1 is skipped"):
        assert run_round(world.context("r1", judge_health=JudgeHealth(max_unreadable=1.0))) == start


def test_seeds_wait_where_there_are_images_to_train_on(world_of: Any) -> None:
    judge = Mortal(DEATHS["busy"])
    world = world_of(judge=judge)
    first = world.budget
    world.budget = replace(first, budget_teacher_calls=3)
    judge.alive = True
    start = seed(world)
    world.budget, judge.alive = first, False
    with pytest.warns(UserWarning, match="5 seed prompts are not bought: .*HTTP 429"):
        assert seed(world) == start
    assert len(world.asked()) == 3


class Down(toys.ToyTeacher):
    def __init__(self, name: str, sent: bool) -> None:
        super().__init__(name)
        self.sent = sent

    def generate(self, requests: Any) -> Iterator[Any]:
        for reply in super().generate(requests):
            yield replace(reply, status="failure", image=None, reason=f"HTTP 402: no money, {KEY}", sent=self.sent)


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.filterwarnings("ignore:The teacher .* draws nothing at present")
def test_teachers_that_fail_all_or_one_of_them_are_told_with_their_reason(world_of: Any, sent: bool) -> None:
    both = {"one": Down("one", sent), "two": Down("two", sent)}
    world = world_of(teachers=both)
    with pytest.raises(
        RunError, match=r"None of 8.*teacher one 8 x HTTP 402: no money.*teacher two 8 x.*Mend it"
    ) as said:
        seed(world)
    assert KEY not in str(said.value) and "judge refuses" not in str(said.value)
    beside = world_of(teachers={"one": Down("one", sent), "two": toys.ToyTeacher("two")})
    assert len(beside.store.state(seed(beside)).in_state("live")) == 8
    (fault,) = beside.store.ledger.faults.of()
    assert fault.part == "teacher one" and fault.reason.startswith("HTTP 402: no money") and KEY not in fault.reason


def test_a_budget_that_pays_for_no_seed_is_told_as_that(world_of: Any) -> None:
    world = world_of(budget=Budget(budget_cost_usd=0.0))
    with pytest.raises(RunError, match=r"None of 8 seed prompts .*the budget allows no call"):
        seed(world)


@pytest.mark.parametrize("replies", ["outage", "silence"])
def test_a_writer_that_is_down_reads_as_that(world_of: Any, replies: str) -> None:
    class DownWriter(toys.ToyWriter):
        def write(self, requests: Any) -> Iterator[WriteReply]:
            for request in requests if replies == "outage" else ():
                yield WriteReply(request.request_id, refusal="HTTP 503", answered=False)

    world = world_of(writer=DownWriter())
    seed(world)
    with pytest.warns(UserWarning, match="The writer writes nothing at present"):
        run_round(world.context("r1", judge_health=JudgeHealth()))
    figures = world.store.ledger.rounds.all()[-1].figures
    assert set(figures.refused) == {"writer not reached"}
    reason = "HTTP 503" if replies == "outage" else "no reply"
    assert {(fault.part, fault.reason) for fault in world.store.ledger.faults.of("r1")} == {("writer", reason)}


def test_a_judge_of_pairs_alone_is_told_in_a_line(world_of: Any) -> None:
    class OfPairs:
        fingerprint = "pairs"

        def __init__(self) -> None:
            self.toy = toys.ToyJudge()

        def look(self, pairs: Any) -> Iterator[Any]:
            return self.toy.look(pairs)

        def close(self) -> None:
            pass

    world = world_of(judge=OfPairs())
    policy = Screening()
    policy.checks_seeds = False
    world.policy = policy
    with pytest.warns(UserWarning, match="OfPairs has no `check`, so no canary"):
        assert len(world.store.state(seed(world)).in_state("live")) == 8


def test_reasons_that_differ_without_end_are_counted_together(world_of: Any) -> None:
    book = world_of().store.ledger.faults
    for number in range(40):
        book.add("r", "judge", [f"HTTP 500: request {number}", "HTTP 429"])
    faults = book.of("r")
    assert len(faults) <= 21 and sum(fault.count for fault in faults) == 80
    assert faults[0] == Fault("judge", "HTTP 429", 40)
