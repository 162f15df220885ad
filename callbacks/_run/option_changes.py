"""What is written for optimizers and schedules, and how it differs from what a checkpoint was made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LambdaLR, SequentialLR

from evolvedirector.errors import UserError

PLACES = frozenset({"T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter", "last_epoch", "base_lrs"})
"""Attributes of torch's schedules that say how far they are; what else they save are options."""
_PROBES = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
"""Steps at which the function of a schedule is compared with that of the checkpoint."""
_OF_SCHEDULES = frozenset({"lr", "max_lr", "min_lr", "base_momentum", "max_momentum"})
"""Options of a group that a schedule reads or writes."""
_NEEDED_STATE = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg", "momentum": "momentum_buffer"}
"""What an optimizer keeps beside each parameter once an option is on; only SGD begins it in the middle of a run."""


class Change(NamedTuple):
    """One option that is written in another way than in the run that saved the checkpoint."""

    optimizer: int
    group: int | None
    """None: of the schedule."""
    option: str
    before: Any
    now: Any


def written_options(optimizers: Sequence[Optimizer], schedules: Sequence[LRSchedulerConfig]) -> dict[str, Any]:
    """Return what is written, as plain values that a checkpoint can hold; call it before a checkpoint is loaded.

    Args:
        optimizers: As configured, not yet stepped.
        schedules: Likewise.
    """
    return {
        "optimizers": [
            {"class": class_path(optimizer), "groups": [_group_options(group) for group in optimizer.param_groups]}
            for optimizer in optimizers
        ],
        "schedules": [
            {
                "class": class_path(config.scheduler),
                "optimizer": _index_of(config.scheduler, optimizers),
                "options": _schedule_options(config.scheduler.state_dict()),
                "factors": _factors(config.scheduler),
            }
            for config in schedules
        ],
    }


def options_of_states(groups: Sequence[Sequence[Mapping[str, Any]]], schedules: Sequence[Any]) -> dict[str, Any]:
    """Derive the same from saved states: for a checkpoint of another program, which does not say what was written.

    A rate that no schedule holds back is taken for the written one; what a schedule moves is left out.

    Args:
        groups: `param_groups` of each saved optimizer.
        schedules: Saved states of the schedules.
    """
    optimizers = []
    for saved in groups:
        options = [_group_options(group) for group in saved]
        for group in options:
            if "max_momentum" in group:
                group.pop("betas", None)
                group.pop("momentum", None)
            if schedules and "initial_lr" not in saved[0]:
                group.pop("lr", None)  # a schedule that keeps no base: the rate may be any
        optimizers.append({"class": None, "groups": options})
    return {
        "optimizers": optimizers,
        "schedules": [
            {"class": None, "optimizer": 0, "options": _schedule_options(state)}
            for state in schedules
            if isinstance(state, Mapping)
        ],
    }


def changes_between(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """List what is written in another way.

    Args:
        before: Of the run that saved the checkpoint.
        now: Of the run that reads it; options that only one of them knows are left out.

    Raises:
        UserError: The optimizers are of another class, or have other groups of parameters.
    """
    _check_same_optimizers(before["optimizers"], now["optimizers"])
    changes = []
    for number, (old, new) in enumerate(zip(before["optimizers"], now["optimizers"], strict=True)):
        for place, (saved, written) in enumerate(zip(old["groups"], new["groups"], strict=True)):
            for option in written:
                if option in saved and not same(saved[option], written[option]):
                    changes.append(Change(number, place, option, saved[option], written[option]))
    for position in range(max(len(before["schedules"]), len(now["schedules"]))):
        old, new = (part["schedules"][position : position + 1] for part in (before, now))
        changes += _schedule_changes(old[0] if old else None, new[0] if new else None)
    return changes


def _schedule_changes(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[Change]:
    optimizer = (now or before or {})["optimizer"]
    if before is None or now is None or not _may_be_one_schedule(before, now):
        classes = ["none" if part is None else short(part["class"] or "a schedule") for part in (before, now)]
        return [Change(optimizer, None, "lr_scheduler", *classes)]
    changes = [
        Change(optimizer, None, f"lr_scheduler.{option}", before["options"][option], value)
        for option, value in now["options"].items()
        if option in before["options"] and not same(before["options"][option], value)
    ]
    if not changes and not same(before.get("factors", []), now["factors"]) and "factors" in before:
        changes.append(Change(optimizer, None, "lr_scheduler", "one function of the step", "another"))
    return changes


def moves_rate(change: Change, group: Mapping[str, Any]) -> bool:
    """Say whether a change means that the rates of an optimizer must be computed anew.

    Args:
        change: Of that optimizer.
        group: The group of parameters that it concerns, or the first.
    """
    cycled = "max_momentum" in group and change.option in ("betas", "momentum")
    return change.group is None or cycled or change.option in _OF_SCHEDULES


def check_can_hold(changes: Sequence[Change], optimizer: Optimizer, state: Mapping[Any, Any]) -> None:
    """Refuse options that need something beside each parameter which the checkpoint does not have.

    Args:
        changes: Of this optimizer.
        optimizer: As configured.
        state: Its saved state by parameter.

    Raises:
        UserError: With the option's name.
    """
    first = next((entry for entry in state.values() if isinstance(entry, Mapping)), None)
    for change in changes:
        needed = _NEEDED_STATE.get(change.option)
        begins = change.option == "momentum" and type(optimizer).__name__ == "SGD"
        if change.group is None or needed is None or first is None or begins:
            continue
        if change.now and first.get(needed) is None:
            raise UserError(
                f"{change.option} is {change.now}, but the checkpoint was trained with {change.option} "
                f"{change.before} and holds no {needed} of {type(optimizer).__name__}. It can be changed in a new run "
                f"only. Write {change.option}: {change.before}, or start a new run (without --ckpt_path)."
            )


def told(changes: Sequence[Change], now: Mapping[str, Any]) -> str:
    """Return one line that names every change: `lr 0.002 -> 1e-05, weight_decay 0.01 -> 0.5`.

    Args:
        changes: At least one.
        now: What is written, which knows how many groups and optimizers there are.
    """
    optimizers = now["optimizers"]
    said: dict[str, None] = {}
    for change in changes:
        alike = [other for other in changes if other.group is not None and other[2:] == change[2:]]
        groups = len(optimizers[change.optimizer]["groups"])
        of_all = change.group is None or len({(c.optimizer, c.group) for c in alike}) == sum(
            len(optimizer["groups"]) for optimizer in optimizers
        )
        where = f"optimizer {change.optimizer}: " if len(optimizers) > 1 and not of_all else ""
        where += f"group {change.group}: " if groups > 1 and not of_all else ""
        said[f"{where}{change.option} {shown(change.before)} -> {shown(change.now)}"] = None
    return ", ".join(said)


def shown(value: Any) -> str:
    """Write a value as YAML users read it."""
    return "(" + ", ".join(map(shown, value)) + ")" if isinstance(value, list | tuple) else str(value)


def same(one: Any, other: Any) -> bool:
    """Compare plain values; lists and tuples of the same values are the same."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def class_path(part: object) -> str:
    """Name the class of an optimizer or schedule."""
    return f"{type(part).__module__}.{type(part).__qualname__}"


def short(path: str) -> str:
    """Return the last word of a class path."""
    return path.rpartition(".")[2]


def _check_same_optimizers(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    if len(before) != len(now):
        raise UserError(
            f"The checkpoint holds the state of {len(before)} optimizers, the configuration makes {len(now)}. A run "
            "that goes on needs the same. Configure the optimizers of the checkpoint, or start a new run (without "
            "--ckpt_path)."
        )
    for old, new in zip(before, now, strict=True):
        if not _may_be_one_class(old, new):
            was = f"of {short(old['class'])}" if old["class"] else "of another optimizer"
            wanted = old["class"] or "the optimizer of the checkpoint"
            raise UserError(
                f"The checkpoint holds the optimizer state {was}, but the configuration names {short(new['class'])}. "
                f"What one optimizer remembers means nothing to another. Write optimizer: {wanted}, or start a new run "
                "(without --ckpt_path)."
            )
        if len(old["groups"]) != len(new["groups"]):
            raise UserError(
                f"The checkpoint's optimizer has {len(old['groups'])} groups of parameters, the configured one "
                f"{len(new['groups'])}. A run that goes on needs the same. Configure the groups of the checkpoint, or "
                "start a new run (without --ckpt_path)."
            )


def _may_be_one_class(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if before["class"] is not None:
        return bool(before["class"] == now["class"])
    old, new = (set(part["groups"][0]) - _OF_SCHEDULES if part["groups"] else set() for part in (before, now))
    return not (new - old and old - new)  # a newer version of a library adds options on one side alone


def _may_be_one_schedule(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if before["class"] is not None:
        return bool(before["class"] == now["class"])
    old, new = set(before["options"]), set(now["options"])
    return not (new - old and old - new)


def _group_options(group: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: plain(value) for name, value in group.items() if name not in ("params", "param_names")}
    if "initial_lr" in options:
        options["lr"] = options.pop("initial_lr")  # the written rate; a schedule scales it
    return {name: value for name, value in options.items() if value is not _NOT_PLAIN}


def _schedule_options(state: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in state.items():
        if name == "_schedulers" and isinstance(value, list | tuple):
            nested = [_schedule_options(part) for part in value if isinstance(part, Mapping)]
            options |= {f"{place}.{key}": part for place, inner in enumerate(nested) for key, part in inner.items()}
        elif not name.startswith("_") and name not in PLACES and (kept := plain(value)) not in (_NOT_PLAIN, [], ()):
            options[name] = kept
    return options


_NOT_PLAIN = "<not a plain value>"


def plain(value: Any) -> Any:
    """Return a number, text, None or a list of them as such; functions and objects as a word that says so.

    Args:
        value: An option of a group of parameters or of a schedule.
    """
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else _NOT_PLAIN
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, list | tuple):
        parts = [plain(part) for part in value]
        return _NOT_PLAIN if _NOT_PLAIN in parts else parts
    return _NOT_PLAIN


def _factors(schedule: Any) -> list[list[float | None]]:
    """Ask the functions of a schedule what they give at a few steps: a checkpoint holds no function."""
    if isinstance(schedule, SequentialLR | ChainedScheduler):
        return [factors for part in schedule._schedulers for factors in _factors(part)]
    if not isinstance(schedule, LambdaLR):
        return []
    return [[_factor(function, step) for step in _PROBES] for function in schedule.lr_lambdas]


def _factor(function: Any, step: int) -> float | None:
    try:
        return float(function(step))
    except Exception:  # a table that ends earlier; whatever it is, it is none of ours
        return None


def _index_of(schedule: Any, optimizers: Sequence[Optimizer]) -> int:
    return next((place for place, optimizer in enumerate(optimizers) if optimizer is schedule.optimizer), 0)
