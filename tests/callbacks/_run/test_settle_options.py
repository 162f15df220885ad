"""A resume keeps what the optimizer learned, and takes every option as it is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop, lr_scheduler

from evolvedirector.callbacks._run.option_changes import told, written_options
from evolvedirector.callbacks._run.settle_options import KEY, copied, settle
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import WarmupDecayLR

Make = Callable[[Any], Optimizer]
Schedule = Callable[[Any], Any] | None
PLACE = 4


class Training:
    """Two parameters under one optimizer and at most one schedule, as a trainer would hold them."""

    def __init__(self, make: Make, schedule: Schedule = None, groups: bool = False) -> None:
        self.weights = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1))]
        apart = [{"params": [self.weights[0]]}, {"params": [self.weights[1]], "weight_decay": 0.0}]
        self.optimizer = make(apart if groups else self.weights)
        self.schedules = [] if schedule is None else [LRSchedulerConfig(schedule(self.optimizer), interval="step")]
        self.written = written_options([self.optimizer], self.schedules)
        self.groups = [[copied(group) for group in self.optimizer.param_groups]]

    def step(self, count: int = 1, measured: float | None = None) -> Training:
        for turn in range(count):
            for weight in self.weights:
                weight.grad = weight.detach() * (turn + 1)
            self.optimizer.step()
            for config in self.schedules:
                config.scheduler.step(*(() if measured is None else (measured,)))
        return self

    def saved(self, says_what_was_written: bool = True) -> dict[str, Any]:
        states = [self.optimizer.state_dict()], [config.scheduler.state_dict() for config in self.schedules]
        said = {KEY: self.written} if says_what_was_written else {}
        whole = {"optimizer_states": states[0], "lr_schedulers": states[1], "global_step": PLACE, "epoch": 1, **said}
        return copy.deepcopy(whole)

    def resume(self, checkpoint: dict[str, Any]) -> str:
        changes = settle([self.optimizer], self.groups, self.schedules, self.written, checkpoint, loaded=False)
        self.optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        for config, state in zip(self.schedules, checkpoint["lr_schedulers"], strict=False):
            config.scheduler.load_state_dict(state)
        return told(changes, self.written) if changes else ""

    @property
    def options(self) -> list[dict[str, Any]]:
        return [copied(group) for group in self.optimizer.param_groups]


def adamw(lr: float = 2e-3, **options: Any) -> Make:
    return lambda parameters: AdamW(parameters, lr, **options)


def sequence(start: float, until: int, gamma: float) -> Schedule:
    return lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, start, 1, until), lr_scheduler.ExponentialLR(o, gamma)], [until]
    )


SCHEDULES: dict[str, tuple[Schedule, Schedule]] = {
    "none": (None, None),
    "ours": (lambda o: WarmupDecayLR(o, PLACE), lambda o: WarmupDecayLR(o, 2 * PLACE)),
    "function": (
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (2 + step)),
    ),
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 6), lambda o: lr_scheduler.CosineAnnealingLR(o, 20)),
    "steps": (lambda o: lr_scheduler.StepLR(o, 2, 0.5), lambda o: lr_scheduler.StepLR(o, 3, 0.1)),
    "cycle": (
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40),
        lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=80),
    ),
    "sequence": (sequence(0.1, 2, 0.9), sequence(0.5, 3, 0.8)),
}
OTHER: dict[str, tuple[Schedule, Schedule]] = {
    "another class": (lambda o: lr_scheduler.ExponentialLR(o, 0.9), SCHEDULES["ours"][1]),
    "a new one": (None, SCHEDULES["ours"][1]),
    "none any more": (SCHEDULES["ours"][0], None),
}


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize(("before", "now"), [*SCHEDULES.values(), *OTHER.values()], ids=[*SCHEDULES, *OTHER])
def test_what_is_written_holds_from_the_next_step_on(before: Schedule, now: Schedule, groups: bool) -> None:
    """Each option is what a run that was written so from its start has at that step."""
    first = Training(adamw(), before, groups).step(PLACE)
    options: Any = {"weight_decay": 0.5, "betas": (0.8, 0.9), "eps": 1e-6}
    again, fresh = (Training(adamw(1e-5, **options), now, groups) for _ in range(2))
    said = again.resume(first.saved())
    assert again.options == fresh.step(PLACE).options
    assert torch.equal(again.optimizer.state[again.weights[0]]["exp_avg"], _moment(first))
    assert again.step(3).options == fresh.step(3).options  # the schedule goes on from there
    assert "eps 1e-08 -> 1e-06" in said and ("lr 0.002 -> 1e-05" in said or "max_lr 0.1 -> 0.2" in said)
    assert ("group 0: weight_decay" if groups else "weight_decay") + " 0.01 -> 0.5" in said


def _moment(training: Training) -> torch.Tensor:
    return training.optimizer.state[training.weights[0]]["exp_avg"]


@pytest.mark.parametrize("says_what_was_written", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_without_a_change_nothing_is_touched(name: str, says_what_was_written: bool) -> None:
    schedule = SCHEDULES[name][0]
    first = Training(adamw(), schedule, True).step(PLACE)
    again, checkpoint = Training(adamw(), schedule, True), first.saved(says_what_was_written)
    assert again.resume(checkpoint) == ""
    untouched = first.saved()
    assert checkpoint["lr_schedulers"] == untouched["lr_schedulers"]
    assert checkpoint["optimizer_states"][0]["param_groups"] == untouched["optimizer_states"][0]["param_groups"]
    assert again.options == first.options


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_checkpoint_that_does_not_say_what_was_written(name: str) -> None:
    """Those of earlier versions, and of other programs: what the saved states show is compared."""
    before, now = SCHEDULES[name]
    first = Training(adamw(), before).step(PLACE)
    again, fresh = (Training(adamw(1e-5, weight_decay=0.5), now) for _ in range(2))
    assert "weight_decay 0.01 -> 0.5" in again.resume(first.saved(False))
    assert again.options == fresh.step(PLACE).options
    only_schedule = Training(adamw(), now)
    assert (only_schedule.resume(first.saved(False)) == "") == (now is None)
    assert only_schedule.options == Training(adamw(), now).step(PLACE).options


def test_a_schedule_that_reacts_keeps_what_it_measured() -> None:
    def plateau(patience: int) -> Schedule:
        return lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=patience)

    first = Training(adamw(), plateau(1)).step(PLACE, measured=0.25)
    assert first.options[0]["lr"] < 2e-3
    patient, slower = Training(adamw(), plateau(7)), Training(adamw(1e-5), plateau(1))
    assert patient.resume(first.saved()) == "lr_scheduler.patience 1 -> 7"
    schedule = patient.schedules[0].scheduler
    assert patient.options == first.options and (schedule.patience, schedule.best) == (7, 0.25)  # type: ignore[union-attr]
    assert slower.resume(first.saved()) == "lr 0.002 -> 1e-05"
    assert slower.options[0]["lr"] == 1e-5


def test_two_optimizers_are_told_apart() -> None:
    trainings = [Training(adamw()).step(), Training(adamw()).step()]
    now = [Training(adamw()), Training(adamw(weight_decay=0.5))]
    before = written_options([one.optimizer for one in trainings], [])
    checkpoint = {"optimizer_states": [one.optimizer.state_dict() for one in trainings], KEY: before}
    written = written_options([one.optimizer for one in now], [])
    changes = settle([one.optimizer for one in now], [one.groups[0] for one in now], [], written, checkpoint, False)
    assert told(changes, written) == "optimizer 1: weight_decay 0.01 -> 0.5"


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (adamw(), lambda p: SGD(p, 0.1), r"optimizer state of AdamW.*names SGD.*optimizer: torch\.optim\.adamw\.AdamW"),
        (adamw(), lambda p: Adam(p, 2e-3), "of AdamW.*names Adam"),
        (adamw(), adamw(amsgrad=True), "amsgrad is True.*Write amsgrad: False"),
        (lambda p: RMSprop(p), lambda p: RMSprop(p, momentum=0.9), "momentum is 0.9.*no momentum_buffer of RMSprop"),
        (adamw(), None, "holds weights alone"),
    ],
)
def test_what_cannot_hold_is_refused_by_name(before: Make, now: Make | None, said: str) -> None:
    checkpoint = Training(before).step().saved()
    if now is None:
        del checkpoint["optimizer_states"]
    with pytest.raises(UserError, match=said):
        Training(now or before).resume(checkpoint)


def test_another_optimizer_is_refused_where_the_checkpoint_does_not_name_its_own() -> None:
    with pytest.raises(UserError, match="of another optimizer, but the configuration names SGD"):
        Training(lambda p: SGD(p, 0.1)).resume(Training(adamw()).step().saved(False))


def test_momentum_begins_where_the_optimizer_can() -> None:
    again = Training(lambda p: SGD(p, 0.1, momentum=0.9))
    assert again.resume(Training(lambda p: SGD(p, 0.1)).step().saved()) == "momentum 0 -> 0.9"
    assert again.step().options[0]["momentum"] == 0.9


def test_other_groups_and_schedules_that_end_are_refused() -> None:
    first = Training(adamw(), SCHEDULES["cycle"][0]).step(PLACE)
    with pytest.raises(UserError, match="has 1 groups of parameters, the configured one 2"):
        Training(adamw(), SCHEDULES["cycle"][0], groups=True).resume(first.saved())
    with pytest.raises(UserError, match="OneCycleLR that is written cannot go on at step 4"):
        Training(adamw(), lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=3)).resume(first.saved())


def test_optimizers_that_a_strategy_has_loaded_are_changed_themselves() -> None:
    """FSDP2 restores them before callbacks hear of the checkpoint, their options included."""
    before, now = SCHEDULES["ours"]
    first = Training(adamw(), before).step(PLACE)
    again = Training(adamw(1e-5, weight_decay=0.5), now)
    again.optimizer.load_state_dict(first.saved()["optimizer_states"][0])
    rest = {key: value for key, value in first.saved().items() if key != "optimizer_states"}
    settle([again.optimizer], again.groups, again.schedules, again.written, rest, loaded=True)
    again.schedules[0].scheduler.load_state_dict(rest["lr_schedulers"][0])
    fresh = Training(adamw(1e-5, weight_decay=0.5), now).step(PLACE)
    assert again.options == fresh.options and again.step(2).options == fresh.step(2).options
