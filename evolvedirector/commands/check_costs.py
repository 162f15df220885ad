"""What `evolvedirector check` says about looks and device memory: the parts that need the whole run to be counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from evolvedirector.callbacks.device_fit import (
    averages,
    frozen_bytes,
    main_memory_bytes,
    memory_rows,
    optimizer_bytes,
    phases_of,
)
from evolvedirector.callbacks.round_schedule import RoundSchedule
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.device_memory import PhaseBytes, gib, student_bytes, too_large
from evolvedirector.evolution.spending_plan import looks_rows, most_cost_usd, most_looks
from evolvedirector.records import Prompt

Rows = dict[str, str]
_SHARDING = ("Sharded", "FSDP", "fsdp", "ModelParallel", "deepspeed")


def evolving(trainer: Any) -> list[Any]:
    """List the callbacks that evolve data."""
    wanted = ("judge", "teachers", "budget", "policy", "offload_student")
    return [part for part in getattr(trainer, "callbacks", ()) if all(hasattr(part, name) for name in wanted)]


def rounds_of(callback: Any, run: Any) -> int | None:
    """Return how many rounds the run leaves room for; None when no end is set.

    Args:
        callback: The one that evolves the data.
        run: Built, not started.
    """
    trainer, per_epoch = run.trainer, getattr(run.datamodule, "batches_per_epoch", None)
    steps = None if per_epoch is None else max(1, per_epoch // int(getattr(trainer, "accumulate_grad_batches", 1)))
    schedule = RoundSchedule(callback.every_n_epochs, callback.max_rounds)
    return schedule.planned_rounds(trainer.max_epochs, trainer.max_steps or -1, steps)


def looks_and_money(run: Any, seeds: Sequence[Prompt]) -> Rows:
    """Say how many looks the judge may be asked for, over the whole run.

    Args:
        run: Built, not started.
        seeds: Prompts of a new root.
    """
    rows: Rows = {}
    for callback in evolving(run.trainer):
        rounds = rounds_of(callback, run)
        skills = len({prompt.skill for prompt in seeds})
        looks = most_looks(callback.policy, callback.budget, rounds, len(seeds), skills, callback.judge_health)
        rows["rounds planned"] = "not known: training has no end" if rounds is None else f"{rounds:,}"
        rows |= looks_rows(looks, callback.budget, callback.teachers, callback.judge)
    for callback in getattr(run.trainer, "callbacks", ()):
        if isinstance(teachers := getattr(callback, "teachers", None), Mapping) and hasattr(callback, "max_prompts"):
            each = {name: callback.max_prompts for name in teachers}
            cost = most_cost_usd(Budget(callback.budget_teacher_calls, teacher_budgets=each), teachers)
            said = "not known: a price is missing" if cost is None else f"{cost:,.2f} USD"
            rows["evaluation images cost (most, once, outside the budget)"] = said
    return rows


def memory_of(run: Any, parameters: tuple[int, int] | None) -> tuple[Rows, str | None]:
    """Say what lies on one device in each phase, and why it cannot fit the ones of this machine.

    Args:
        run: Built, not started.
        parameters: Values of the student and the trained ones among them. None: known only when the run starts.
    """
    if parameters is None or not (callbacks := evolving(run.trainer)):
        return {}, None
    config = run.config[run.subcommand]
    strategy = str(getattr(config.trainer.strategy, "class_path", None) or config.trainer.strategy)
    sharded = any(word in strategy for word in _SHARDING)
    student = student_bytes(
        *parameters,
        shards=devices_of(run) if sharded else 1,
        averaged_copies=averages(run.trainer.callbacks),
        optimizer_bytes=optimizer_bytes(_optimizer_name(config)),
        frozen=frozen_bytes(run.model),
    )
    listed = phases_of(callbacks[0], student, run.trainer.callbacks)
    rows = memory_rows(listed)
    rows["  counted"] = "weights, gradients, optimizer, averages and what parts say of themselves; not activations"
    return rows, _misfit(listed, callbacks[0].offload_student, str(config.trainer.accelerator), rows)


def devices_of(run: Any) -> int:
    """Return over how many devices a sharding strategy divides the student."""
    wanted = run.config[run.subcommand].trainer
    devices = wanted.devices if isinstance(wanted.devices, int) and wanted.devices > 0 else run.trainer.num_devices
    return int(devices) * int(wanted.num_nodes or 1)


def _misfit(listed: Iterable[PhaseBytes], offload: Any, accelerator: str, rows: Rows) -> str | None:
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        every = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        least = min(every, key=lambda device: device.total_memory)
        rows["  this machine"] = f"{least.name}, {gib(least.total_memory)}"
        return too_large(listed, least.total_memory, offload)
    memory = main_memory_bytes()
    if accelerator == "cpu" and memory is not None:
        rows["  this machine"] = f"{gib(memory)} of main memory"
        if (problem := too_large(listed, memory, "all")) is not None:
            rows["  warning"] = problem
    return None


def _optimizer_name(config: Any) -> str:
    optimizer = getattr(getattr(config.model, "init_args", None), "optimizer", None)
    return str(getattr(optimizer, "class_path", "")).rpartition(".")[2]
