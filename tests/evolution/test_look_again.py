"""A policy may have candidates looked at again: another drawing each time, nothing twice, nothing beyond the budget."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.errors import UserError
from evolvedirector.evolution.budget import Budget, looks_left, lowest_price_usd
from evolvedirector.evolution.history import past_rounds
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.look_again import MOST_FURTHER_LOOKS
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import RoundInterrupted, RoundWatch, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    ImageRequest,
    RoundInfo,
    RoundPlan,
    Tally,
    TrainingMix,
    WriteRequest,
)
from tests import toys
from tests.evolution.test_round import World


class Twice:
    """Looks at what failed until it failed so often, and buys that."""

    fingerprint, checks_seeds = "twice", True

    def __init__(self, looks: int = 3) -> None:
        self.looks, self.given = looks, list[list[Evidence]]()

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        request = WriteRequest(f"w{round.round_id}", "mutation", None, "tone", 12, round.index)
        return RoundPlan(write=(request,), probe=tuple(state.entries)[:2])

    def look_again(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[str]:
        screened = [item for item in evidence if item.kind == "screen" and item.reading == "lacks"]
        return [item.prompt_id for item in screened if len(item.looks) < self.looks]

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        self.given.append(list(evidence))
        return [Decision("buy", e.prompt_id) for e in evidence if len(e.looks) == self.looks][:3]

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        return None

    def most_looks(self, size: Any) -> int | None:
        return None


class Varied(World):
    """The student draws another tone by every seed."""

    def draw(self, requests: Sequence[ImageRequest]) -> list[bytes]:
        self.drawn += [request.prompt for request in requests]
        return [toys.flat_png(request.seed % 200) for request in requests]


@pytest.fixture
def world_of(tmp_path: Path):
    worlds: list[World] = []

    def make(kind: type[World] = Varied, **parts: Any) -> World:
        worlds.append(kind(tmp_path / str(len(worlds)), **{"policy": Twice(), **parts}))
        worlds[-1].seed()
        return worlds[-1]

    yield make
    for world in worlds:
        world.store.close()


def test_each_further_look_is_at_another_drawing_and_a_candidate_counts_once(world_of) -> None:
    world = world_of()
    child = run_round(world.context())
    evidence = [e for e in world.store.ledger.looks.evidence("r1") if e.kind == "screen"]
    doubted = [item for item in evidence if item.reading == "lacks"]
    assert len(doubted) > 3 and {len(item.looks) for item in doubted} == {3}
    for item in doubted:
        images = (item.student_sha256, *item.further_sha256)
        assert len(set(images)) == 3 and all(map(world.store.blobs.get, images))
        assert len({look.item_id for look in item.looks}) == 3
    assert {e.prompt_id: e for e in world.policy.given[0] if e.kind == "screen"} == {e.prompt_id: e for e in evidence}
    figures = world.store.ledger.rounds.get("r1").figures
    assert figures.screened.total() == len(evidence)
    (past,) = past_rounds(world.store.ledger, child)
    failed = len(doubted)
    assert sum(tally.failed for tally in past.skills.values()) == failed == len(past.failed)
    (name,) = past.operations
    assert (name[1], past.operations[name]) == ("mutation", Tally(len(evidence), failed))


@pytest.mark.parametrize("after_units", range(1, 40, 3))
def test_a_round_killed_between_looks_is_finished_as_if_it_had_not_been(world_of, after_units: int) -> None:
    whole, killed = world_of(), world_of()
    left = [after_units]

    def stop() -> str | None:
        left[0] -= 1
        return "a test" if left[0] < 0 else None

    expected = run_round(whole.context())
    with contextlib.suppress(RoundInterrupted):
        run_round(killed.context(watch=RoundWatch(stop)))
    assert run_round(killed.context()) == expected
    assert killed.store.ledger.spend() == whole.store.ledger.spend()
    told = [sorted(map(repr, world.store.ledger.looks.evidence("r1"))) for world in (whole, killed)]
    assert told[0] == told[1]


def test_the_budget_of_looks_ends_it_and_nothing_is_asked_twice(world_of) -> None:
    free = world_of()
    run_round(free.context())
    spent = free.store.ledger.spend().judge_calls
    for budget in (spent, spent - 12, spent - 25):
        world = world_of(budget=Budget(budget_judge_calls=budget))
        run_round(world.context())
        assert world.store.ledger.spend().judge_calls <= budget
        assert world.judge.asked <= budget


def test_the_same_drawing_again_teaches_nothing_and_a_policy_that_never_has_enough_is_ended(world_of) -> None:
    dull = world_of(World, policy=Twice(looks=10**6))
    run_round(dull.context())  # its student draws the same, whatever the seed
    assert all(len(e.looks) == 1 for e in dull.store.ledger.looks.evidence("r1"))
    greedy = world_of(policy=Twice(looks=10**6))
    run_round(greedy.context())
    assert max(len(e.looks) for e in greedy.store.ledger.looks.evidence("r1")) <= 1 + MOST_FURTHER_LOOKS


@pytest.mark.parametrize("spare", [0, 1])
def test_a_student_that_trains_on_has_drawn_everything_before_and_no_more_is_looked_at(world_of, spare: int) -> None:
    world, drawn_by_then = world_of(), list[int]()
    watch = RoundWatch(drawn=lambda: drawn_by_then.append(len(world.drawn)))
    run_round(world.context(watch=watch, spare_drawings=spare))
    assert drawn_by_then == [len(world.drawn)]
    evidence = [e for e in world.store.ledger.looks.evidence("r1") if e.reading == "lacks" and e.kind == "screen"]
    assert {len(item.looks) for item in evidence} == {1 + spare}
    assert len(evidence) > 3


def test_losses_of_what_a_round_bought_are_refused_where_the_student_trains_on(world_of) -> None:
    class ByLoss(Twice):
        def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
            return replace(super().plan(state, round), most_losses=9)

    world = world_of(policy=ByLoss())
    context = world.context(spare_drawings=0)
    student = StudentPart(world.draw, chunk=4, measure=lambda requests: [0.0] * len(requests))
    tenants = tenants_of(student, world.teachers, world.judge, world.writer)
    parts = replace(context.parts, student=student, executor=LocalExecutor(tenants, unit=8))
    with pytest.raises(UserError, match=r"loss on up to 9 samples.*Write `mode: between_epochs`"):
        run_round(replace(context, parts=parts))


def test_a_look_at_what_was_not_screened_is_refused(world_of) -> None:
    class Wild(Twice):
        def look_again(self, state, evidence, allowance, round) -> list[str]:
            return ["nobody"]

    world = world_of(policy=Wild())
    with pytest.raises(ValueError, match=r"'nobody', which is none of the \d+ candidates.*Return ids"):
        run_round(world.context())


def test_what_a_budget_leaves_for_looks() -> None:
    assert lowest_price_usd(Budget(prices_usd={"a": 0.5}), {"a": 0.1, "b": 0.2, "c": 0.0}) == 0.2
    assert lowest_price_usd(Budget(), {}) == 0.0
    assert looks_left(Budget(), Allowance(None, None, None), 0.1) is None
    assert looks_left(Budget(), Allowance(10, 70, None), 0.1) == 70
    priced = Budget(price_per_look_usd=0.01)
    assert looks_left(priced, Allowance(10, 500, 5.0), 0.1) == 400
    assert looks_left(priced, Allowance(100, 500, 5.0), 0.1) == 0
