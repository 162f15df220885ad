"""The student's loss is measured where a policy asks for it: after buying, once, and the same after a kill."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.errors import RunError
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.losses import NOISE_LEVELS, live_samples
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundParts, RoundWatch, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.policies.screening.draws import weights_by_loss
from evolvedirector.records import (
    DatasetState,
    Evidence,
    LossRequest,
    RevisionChange,
    RoundInfo,
    RoundPlan,
    Sample,
    TrainingMix,
)
from tests import toys
from tests.evolution.test_look_again import Twice
from tests.evolution.test_round import World


class ByLoss(Twice):
    """Buys what failed, and draws in proportion to loss."""

    def __init__(self, most: int = 99) -> None:
        super().__init__(looks=1)
        self.most, self.losses = most, list[dict[str, tuple[float, ...]]]()

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        plan = super().plan(state, round)
        return RoundPlan(write=plan.write, most_losses=self.most)

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        self.losses.append(dict(state.losses))
        return TrainingMix({"tone": 1.0}, 0.0, weights_by_loss(state.losses, 1.0, 0.5))


class Measuring(World):
    """Its student's loss is the tone of the image over 255, and the round's number on top."""

    def __init__(self, folder: Path, **parts: Any) -> None:
        super().__init__(folder, **parts)
        self.measured: list[list[LossRequest]] = []
        self.learned = 0.0

    def measure(self, requests: Sequence[LossRequest]) -> list[float]:
        self.measured.append(list(requests))
        return [toys.mean_tone(request.image) / 255 + self.learned for request in requests]

    def context(self, round_id: str = "r1", index: int = 0, watch: RoundWatch | None = None, **changes: Any) -> Round:
        student = StudentPart(self.draw, chunk=4, measure=self.measure if changes.pop("able", True) else None)
        tenants = tenants_of(student, self.teachers, self.judge, self.writer)
        who = (student, self.teachers, self.judge, self.writer, self.policy)
        parts = RoundParts(self.store, LocalExecutor(tenants, unit=8), *who, self.budget, 8)
        info = RoundInfo(round_id, index, None, 0, 10 * (index + 1), self.sha)
        return Round(parts, info, watch or RoundWatch())


@pytest.fixture
def world_of(tmp_path: Path):
    worlds: list[Measuring] = []

    def make(**parts: Any) -> Measuring:
        worlds.append(Measuring(tmp_path / str(len(worlds)), **{"policy": ByLoss(), **parts}))
        worlds[-1].seed()
        return worlds[-1]

    yield make
    for world in worlds:
        world.store.close()


def live(state: DatasetState) -> list[Sample]:
    return [sample for entry in state.in_state("live") for sample in entry.samples]


def test_every_live_sample_is_measured_after_buying_and_drawn_by_its_running_loss(world_of) -> None:
    world = world_of()
    world.sha = first = run_round(world.context())
    world.learned = 0.5
    second = run_round(world.context("r2", 1))
    before, after = world.store.state(first), world.store.state(second)
    assert len(live(before)) > 8  # what was bought in the round is measured with the others
    held = world.store.ledger.rounds.losses("r1")
    assert held == {s.key: toys.tone_of(s.prompt.text) / 255 for s in live(before)}
    assert before.sample_weights == weights_by_loss({key: (loss,) for key, loss in held.items()}, 1.0, 0.5)
    again = world.store.ledger.rounds.losses("r2")
    assert again.keys() == {s.key for s in live(after)} > held.keys()
    assert world.policy.losses[-1] == {
        key: (held[key], loss) if key in held else (loss,) for key, loss in again.items()
    }
    assert after.sample_weights == weights_by_loss(world.policy.losses[-1], 1.0, 0.5)


def test_the_noise_is_that_of_the_sample_whenever_it_is_measured(world_of) -> None:
    world = world_of()
    world.sha = run_round(world.context())
    seeds = {request.request_id: request.noise_seeds for chunk in world.measured for request in chunk}
    assert all(len(set(of)) == NOISE_LEVELS for of in seeds.values())
    assert len({seed for of in seeds.values() for seed in of}) == NOISE_LEVELS * len(seeds)
    world.measured.clear()
    run_round(world.context("r2", 1))
    later = {request.request_id: request.noise_seeds for chunk in world.measured for request in chunk}
    assert {key: later[key] for key in seeds} == seeds


@pytest.mark.parametrize("after_units", range(1, 14, 3))
def test_a_round_killed_anywhere_measures_nothing_twice_and_ends_the_same(world_of, after_units: int) -> None:
    whole, killed = world_of(), world_of()
    left = [after_units]

    def stop() -> str | None:
        left[0] -= 1
        return "a test" if left[0] < 0 else None

    expected = run_round(whole.context())
    with contextlib.suppress(RoundInterrupted):
        run_round(killed.context(watch=RoundWatch(stop)))
    assert run_round(killed.context()) == expected
    assert killed.measured == whole.measured  # in the same chunks, each once


def test_a_cap_measures_what_was_measured_longest_ago(world_of) -> None:
    world = world_of(policy=ByLoss(most=4))
    seen: list[set[str]] = []
    for index in range(3):
        world.sha = run_round(world.context(f"r{index}", index))
        seen.append(set(world.store.ledger.rounds.losses(f"r{index}")))
        assert len(seen[-1]) == 4
    assert not seen[0] & seen[1] and not seen[1] & seen[2]
    assert world.policy.losses[-1].keys() == seen[0] | seen[1] | seen[2]
    # those that were never measured are drawn as often as the mean
    assert len(world.store.state(world.sha).sample_weights) < len(live(world.store.state(world.sha)))


def test_a_student_that_cannot_measure_is_refused_before_anything_is_bought(world_of) -> None:
    world = world_of()
    bought = len(world.asked())
    with pytest.raises(ValueError, match=r"loss on up to 99 samples.*has no `sample_losses`.*or add"):
        run_round(world.context(able=False))
    assert (len(world.asked()), world.drawn) == (bought, [])


def test_a_loss_that_is_not_finite_ends_the_round_with_the_prompt(world_of) -> None:
    world = world_of()
    world.learned = float("nan")
    with pytest.raises(RunError, match=r"loss on 'tone \d+' is nan.*Go on from an earlier checkpoint"):
        run_round(world.context())


def test_nobody_is_measured_where_no_policy_asks(world_of) -> None:
    world = world_of(policy=Twice(looks=1))
    child = run_round(world.context())
    assert not world.measured and world.store.state(child).sample_weights == {}


def test_live_samples_are_those_of_the_next_revision(world_of) -> None:
    world = world_of()
    state = world.store.state(world.sha)
    kept, replaced, mastered = live(state)[:3]
    newer = Sample.create(replaced.prompt, "1" * 64, "other")
    change = RevisionChange(samples=(newer,), states={mastered.prompt.id: "mastered", kept.prompt.id: "live"})
    found = live_samples(state, change)
    assert found[-1] == newer and kept in found and not {replaced, mastered} & set(found)
    assert len(found) == len(live(state)) - 1
