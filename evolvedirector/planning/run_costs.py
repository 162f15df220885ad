"""What `evolvedirector check` says about looks and device memory: the parts that need the whole run to be counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from evolvedirector.callbacks._run.device_fit import (
    averages,
    frozen_bytes,
    main_memory_bytes,
    memory_rows,
    optimizer_bytes,
    phases_of,
)
from evolvedirector.callbacks.forgetting import Forgetting
from evolvedirector.callbacks.skill_accuracy import SkillAccuracy
from evolvedirector.callbacks.win_rate import WinRate
from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.schedule import RoundSchedule
from evolvedirector.planning.memory import PhaseBytes, gib, student_bytes, too_large
from evolvedirector.planning.spending import Reader, figures_rows, looks_rows, most_cost_usd, most_looks, most_spent_usd
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


def looks_and_money(run: Any, seeds: Sequence[Prompt], epochs: int | None) -> Rows:
    """Say how many looks the judges may be asked for over the whole run, those of the figures apart.

    Args:
        run: Built, not started.
        seeds: Prompts of a new root.
        epochs: Of the whole training. None: no end is set.
    """
    rows: Rows = {}
    spent: list[float | None] = []
    for callback in evolving(run.trainer):
        rounds = rounds_of(callback, run)
        skills = len({prompt.skill for prompt in seeds})
        looks = most_looks(callback.policy, callback.budget, rounds, len(seeds), skills, callback.judge_health)
        rows["rounds planned"] = "not known: training has no end" if rounds is None else f"{rounds:,}"
        rows |= looks_rows(looks, callback.budget, callback.teachers, callback.judge)
        spent.append(most_spent_usd(looks, callback.budget, callback.teachers, callback.judge))
    images: dict[str, float | None] = {}
    for callback in getattr(run.trainer, "callbacks", ()):
        if isinstance(teachers := getattr(callback, "teachers", None), Mapping) and hasattr(callback, "max_prompts"):
            each = {name: callback.max_prompts for name in teachers}
            calls = Budget(callback.budget_teacher_calls, teacher_budgets=each)
            images[type(callback).__name__] = most_cost_usd(calls, teachers)
    in_evolution = None if None in spent else sum(part or 0.0 for part in spent)
    return rows | figures_rows(readers_of(run, epochs), images, in_evolution)


def readers_of(run: Any, epochs: int | None) -> list[Reader]:
    """List the judges that read the figures, with the most looks that they may be asked for.

    Args:
        run: Built, not started.
        epochs: Of the whole training. None: no end is set.
    """
    tell = getattr(run.datamodule, "held_out_prompts", None)
    held_out = len(tell()) if callable(tell) else 0
    found = []
    for part in getattr(run.trainer, "callbacks", ()):
        name, every = type(part).__name__, getattr(part, "every_n_epochs", None)
        further = 0 if every is None else None if epochs is None else epochs // every
        if isinstance(part, SkillAccuracy):
            validations = validations_of(run.trainer, epochs)
            looks = None if validations is None else held_out * (validations + part.seeds_per_prompt)
            found.append(Reader(f"{name}.reader", part.reader, looks))
        elif isinstance(part, Forgetting):
            looks = None if further is None else part.max_prompts * (further + 1)
            found.append(Reader(f"{name}.reader", part.reader, looks))
        elif isinstance(part, WinRate):
            pairs = len(part.teachers) * min(part.max_prompts, held_out)
            looks = None if further is None else 2 * pairs * (further + 1)
            found.append(Reader(f"{name}.judge", part.evaluation_judge, looks))
            if part.compare_with_training_judge:
                found += [Reader(f"the judge for {name}", other.judge, looks) for other in evolving(run.trainer)[:1]]
    return found


def validations_of(trainer: Any, epochs: int | None) -> int | None:
    """Return how many validations a training has at most, the one before it included.

    Args:
        trainer: Built, not started.
        epochs: Of the whole training. None: no end is set.
    """
    if trainer.limit_val_batches == 0:
        return 0
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if epochs is None or every is None or not isinstance(interval, float) or interval <= 0.0:
        return None  # an interval in batches crosses epochs
    return int(epochs // every / interval) + (trainer.num_sanity_val_steps != 0)


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
