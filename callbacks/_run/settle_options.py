"""Merge what a checkpoint learned with what is written: moments and steps from there, every option from here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from evolvedirector.callbacks._run.option_changes import (
    PLACES,
    Change,
    changes_between,
    check_can_hold,
    moves_rate,
    options_of_states,
)
from evolvedirector.errors import UserError

KEY = "written_options"
"""Where a checkpoint keeps what was written in the run that saved it."""


def settle(
    optimizers: Sequence[Optimizer],
    groups: Sequence[Sequence[dict[str, Any]]],
    schedules: Sequence[LRSchedulerConfig],
    written: Mapping[str, Any],
    checkpoint: dict[str, Any],
    loaded: bool,
) -> list[Change]:
    """Change a loaded checkpoint so that restoring it gives the written options; without a change touch nothing.

    Args:
        optimizers: As configured, or as a sharded strategy loaded them.
        groups: Their groups of parameters as they were configured.
        schedules: As configured, not yet stepped.
        written: What `written_options` said of both.
        checkpoint: Changed in place.
        loaded: The strategy has loaded the optimizers already, as sharded ones do: then they are changed themselves.

    Returns:
        What is written in another way than in the run that saved the checkpoint.

    Raises:
        UserError: The checkpoint cannot be continued so.
    """
    if not loaded and "optimizer_states" not in checkpoint:
        raise UserError(
            "The checkpoint holds weights alone, no state of an optimizer. Training goes on from a whole one only. "
            "Name another checkpoint, or load these weights where the model is built and start a new run."
        )
    states = [] if loaded else list(checkpoint["optimizer_states"])
    saved_groups = [o.param_groups for o in optimizers] if loaded else [state["param_groups"] for state in states]
    saved_schedules = list(checkpoint.get("lr_schedulers") or [])
    before = checkpoint.get(KEY) or options_of_states(saved_groups, saved_schedules)
    changes = changes_between(before, written)
    if KEY not in checkpoint:
        changes += _rates_off_schedule(optimizers, schedules, saved_groups, saved_schedules, changes)
    for number, optimizer in enumerate(optimizers):
        own = [change for change in changes if change.optimizer == number]
        check_can_hold(own, optimizer, optimizer.state if loaded else states[number]["state"])
        if not own:
            continue
        saved = [dict(group) for group in saved_groups[number]]
        held = _held(optimizer, groups[number], schedules, own, saved, saved_schedules, checkpoint)
        if loaded:
            put_options(optimizer, held)
        else:
            states[number] = {**states[number], "param_groups": held}
    if changes and not loaded:
        checkpoint["optimizer_states"] = states
    if changes and "lr_schedulers" in checkpoint:
        checkpoint["lr_schedulers"] = saved_schedules
    return changes


def _held(
    optimizer: Optimizer,
    configured: Sequence[dict[str, Any]],
    schedules: Sequence[LRSchedulerConfig],
    own: Sequence[Change],
    saved: Sequence[dict[str, Any]],
    saved_schedules: list[Any],
    checkpoint: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the groups of an optimizer under what is written; the states of its schedules are replaced."""
    mine = [place for place, config in enumerate(schedules) if config.scheduler.optimizer is optimizer]
    reacts = any(isinstance(schedules[place].scheduler, ReduceLROnPlateau) for place in mine)
    moving = [c for c in own if moves_rate(c, configured[c.group or 0]) and not (reacts and c.group is None)]
    if len(mine) > 1 and moving:
        raise UserError(
            f"{moving[0].option} is {moving[0].now}, in the checkpoint {moving[0].before}, and {len(mine)} schedules "
            f"move the rates of one {type(optimizer).__name__}. What they would have made of it is not known. Write "
            f"{moving[0].option}: {moving[0].before}, or one schedule for each optimizer."
        )
    if moving:
        put_options(optimizer, configured)
    for place in mine:
        schedule = schedules[place].scheduler
        old = saved_schedules[place] if place < len(saved_schedules) else None
        same_class = not any(change.option == "lr_scheduler" for change in own)
        if isinstance(schedule, ReduceLROnPlateau):
            if all(change.group is not None for change in own):
                continue
            at = (old or {}) if same_class else {}  # what it has measured so far
            state = {
                **schedule.state_dict(),
                **{key: value for key, value in at.items() if key in PLACES or key.startswith("_")},
            }
        elif moving:
            advance(schedule, _place(schedules[place], old if same_class else None, checkpoint))
            state = schedule.state_dict()
        else:
            continue
        saved_schedules[place : place + 1] = [state]
    if moving:
        live = [copied(group) for group in optimizer.param_groups]
        return [{**now, "params": group["params"]} for now, group in zip(live, saved, strict=True)]
    for change in own:
        if change.group is not None:
            saved[change.group][change.option] = configured[change.group][change.option]
    return list(saved)


def _rates_off_schedule(
    optimizers: Sequence[Optimizer],
    schedules: Sequence[LRSchedulerConfig],
    saved_groups: Sequence[Sequence[Mapping[str, Any]]],
    saved_schedules: Sequence[Any],
    changes: Sequence[Change],
) -> list[Change]:
    """Find computed schedules that give another rate than the saved one: their functions are not in a checkpoint."""
    found = []
    for config, state in zip(schedules, saved_schedules, strict=False):
        schedule = config.scheduler
        number = next((n for n, optimizer in enumerate(optimizers) if optimizer is schedule.optimizer), None)
        if number is None or not is_computed(schedule) or any(change.optimizer == number for change in changes):
            continue
        for group, saved in enumerate(saved_groups[number]):
            rate = float(schedule.base_lrs[group]) * schedule.lr_lambdas[group](state["last_epoch"])  # type: ignore[union-attr]
            if rate != float(saved["lr"]):
                found.append(Change(number, group, "lr", float(saved["lr"]), rate))
    return found


def _place(config: LRSchedulerConfig, saved: Mapping[str, Any] | None, checkpoint: Mapping[str, Any]) -> int:
    """Return how often a schedule had been stepped when the checkpoint was saved."""
    if saved is not None and "last_epoch" in saved:
        return int(saved["last_epoch"])
    parts = (saved or {}).get("_schedulers") or []
    if parts:  # a chain counts in its parts
        return int(parts[0]["last_epoch"])
    done = checkpoint["global_step"] if config.interval == "step" else checkpoint["epoch"]
    return int(done) // max(1, config.frequency)


def is_computed(schedule: Any) -> bool:
    """Say whether the rate is a function of the step alone, so that no step needs to be gone through."""
    return isinstance(schedule, LambdaLR) and type(schedule).get_lr is LambdaLR.get_lr


def advance(schedule: LRScheduler, place: int) -> None:
    """Step a fresh schedule to a place; the rates of its optimizer are then what is written for that place.

    Args:
        schedule: Just made.
        place: How often it is to have been stepped.

    Raises:
        UserError: The schedule ends before that place, or cannot be stepped by itself.
    """
    steps = place
    if is_computed(schedule) and place > 0:
        schedule.last_epoch, schedule._step_count, steps = place - 1, place, 1
    try:
        with warnings.catch_warnings():  # torch misses the optimizer's steps, which an earlier process made
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(steps):
                schedule.step()
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The {type(schedule).__name__} that is written cannot go on at step {place}: {error}. A schedule must "
            "reach as far as the checkpoint. Write a longer one, or that of the checkpoint."
        ) from error


def copied(group: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the options of a group of parameters; a schedule may fill a rate that is a tensor in place."""
    options = {name: value for name, value in group.items() if name != "params"}
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in options.items()}


def put_options(optimizer: Optimizer, groups: Sequence[Mapping[str, Any]]) -> None:
    """Give the groups of a live optimizer these options and no others; their parameters stay.

    Args:
        optimizer: Changed in place.
        groups: Options by group.
    """
    for live, wanted in zip(optimizer.param_groups, groups, strict=True):
        options = copied(wanted)
        for name in [name for name in live if name != "params" and name not in options]:
            del live[name]
        live.update(options)
