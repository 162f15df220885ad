"""What `evolvedirector check` says about looks and device memory: the parts that need the whole run to be counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from evolvedirector.planning.memory import (
    PhaseBytes,
    PredictsWork,
    WorkBytes,
    frozen_bytes,
    gib,
    main_memory_bytes,
    memory_rows,
    optimizer_bytes,
    state_bytes,
    student_bytes,
    too_large,
)
from evolvedirector.planning.roles import (
    BuysImages,
    CountsBatches,
    DrawsFigures,
    EvolutionPlan,
    Evolves,
    HasBuckets,
    HoldsOut,
    Measures,
    PlannedRun,
    PlansArms,
    SizesImages,
    phases_of,
)
from evolvedirector.planning.spending import Reader, figures_rows, looks_rows, most_cost_usd, most_looks, most_spent_usd
from evolvedirector.policies.policy import RunSize
from evolvedirector.records import Prompt

Rows = dict[str, str]
_SHARDING = ("Sharded", "FSDP", "fsdp", "ModelParallel", "deepspeed")


def evolving(trainer: Any) -> list[EvolutionPlan]:
    """List what the callbacks that evolve data say of themselves."""
    return [callback.evolution() for callback in trainer.callbacks if isinstance(callback, Evolves)]


def rounds_of(plan: EvolutionPlan, run: Any) -> int | None:
    """Return how many rounds the run leaves room for; None when no end is set.

    Args:
        plan: Of the evolution.
        run: Built, not started.
    """
    trainer, data = run.trainer, run.datamodule
    steps = (
        max(1, data.batches_per_epoch // trainer.accumulate_grad_batches) if isinstance(data, CountsBatches) else None
    )
    return plan.schedule.planned_rounds(trainer.max_epochs, trainer.max_steps or -1, steps)


def looks_and_money(run: Any, seeds: Sequence[Prompt], epochs: int | None) -> Rows:
    """Say how many looks the judges may be asked for over the whole run, those of the figures apart.

    Args:
        run: Built, not started.
        seeds: Prompts of a new root.
        epochs: Of the whole training. None: no end is set.
    """
    rows: Rows = {}
    spent: list[float | None] = []
    for plan in evolving(run.trainer):
        settings, rounds = plan.settings, rounds_of(plan, run)
        skills = len({prompt.skill for prompt in seeds})
        size = RunSize(rounds, settings.budget.budget_teacher_calls, len(seeds), skills)
        looks = most_looks(settings.policy, settings.budget, size, settings.judge_health)
        rows["rounds planned"] = "not known: training has no end" if rounds is None else f"{rounds:,}"
        rows |= looks_rows(looks, settings.budget, settings.teachers, settings.judge)
        spent.append(most_spent_usd(looks, settings.budget, settings.teachers, settings.judge))
    buying = [callback for callback in run.trainer.callbacks if isinstance(callback, BuysImages)]
    planned = {type(callback).__name__: callback.planned_images() for callback in buying}
    images = {name: most_cost_usd(asked.budget, asked.teachers) for name, asked in planned.items() if asked.teachers}
    in_evolution = None if None in spent else sum(part or 0.0 for part in spent)
    return rows | drawings_rows(run, epochs) | figures_rows(readers_of(run, epochs), images, in_evolution)


def drawings_rows(run: Any, epochs: int | None) -> Rows:
    """Say how many images the student draws for figures that are not those of a validation.

    Args:
        run: Built, not started.
        epochs: Of the whole training. None: no end is set.
    """
    planned = _planned(run, epochs)
    drawn = {
        type(callback).__name__: callback.planned_drawings(planned)
        for callback in run.trainer.callbacks
        if isinstance(callback, DrawsFigures)
    }
    return {
        f"images drawn for {name}": "not bounded" if count is None else f"at most {count:,}"
        for name, count in drawn.items()
        if count != 0
    }


def readers_of(run: Any, epochs: int | None) -> list[Reader]:
    """List the judges that read the figures, with the most looks that they may be asked for.

    Args:
        run: Built, not started.
        epochs: Of the whole training. None: no end is set.
    """
    planned = _planned(run, epochs)
    measuring = [callback for callback in run.trainer.callbacks if isinstance(callback, Measures)]
    return [reader for callback in measuring for reader in callback.planned_looks(planned)]


def _planned(run: Any, epochs: int | None) -> PlannedRun:
    held_out = len(run.datamodule.held_out_prompts()) if isinstance(run.datamodule, HoldsOut) else 0
    judges = tuple(plan.settings.judge for plan in evolving(run.trainer))
    planning = [callback for callback in run.trainer.callbacks if isinstance(callback, PlansArms)]
    arms = 1 + sum(len(callback.planned_arms()) for callback in planning) if planning else None
    return PlannedRun(epochs, validations_of(run.trainer, epochs), held_out, judges, arms)


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


def memory_of(
    run: Any, parameters: tuple[int, int, int] | None, averaged_copies: int, optimizer: object = None
) -> tuple[Rows, str | None]:
    """Say what lies on one device in each phase, and why it cannot fit the ones of this machine.

    Args:
        run: Built, not started.
        parameters: Values of the student, the trained ones among them, and the bytes of all. None: known only when the
            run starts.
        averaged_copies: Averages of the trained weights that callbacks keep on the device.
        optimizer: Made for parameters without memory. None: its class in the config says what it keeps.
    """
    if parameters is None:
        return {}, None
    plans = evolving(run.trainer)
    config = run.config[run.subcommand]
    strategy = class_of(config.trainer.strategy)
    by_name = optimizer_bytes(class_of(_optimizer(config.model)).rpartition(".")[2])
    student = student_bytes(
        *parameters[:2],
        weight_bytes=parameters[2],
        shards=shards_of(run),
        base_is_whole="ShardedStrategy" in strategy,
        offloaded=bool(of_strategy(run, "cpu_offload", False)),
        averaged_copies=averaged_copies,
        optimizer_bytes=by_name if optimizer is None else state_bytes(optimizer),
        frozen=frozen_bytes(run.model),
    )
    work = work_of(run)
    listed = phases_of(plans[0] if plans else None, student, run.trainer.callbacks, work)
    rows = memory_rows(listed)
    rows["  counted"] = "weights, gradients, optimizer, averages and what parts say of themselves"
    rows["  work"] = (
        "activations of network, text encoders and codec, traced from shapes; not those of judges and teachers"
    )
    if work is None:
        rows["  work"] = f"not predicted: {type(run.model).__name__} does not say what its work takes"
    for name, reason in (work.unknown if work is not None else {}).items():
        rows[f"  {name}"] = f"not predicted: {reason}"
    if plans:
        return rows, _misfit(listed, plans[0].offload_student, str(config.trainer.accelerator), rows)
    if (problem := _misfit(listed, "none", str(config.trainer.accelerator), rows)) is not None:
        rows["  warning"] = problem  # nobody refuses it before it starts
    return rows, None


def work_of(run: Any) -> WorkBytes | None:
    """Predict what the student's work takes on one device; None where it does not say, or no batch has a size.

    Args:
        run: Built, its model configured without memory.
    """
    model, data = run.model, run.datamodule
    if not (isinstance(model, PredictsWork) and isinstance(data, CountsBatches) and isinstance(data, SizesImages)):
        return None
    buckets = data.buckets if isinstance(data, HasBuckets) else ()
    side = (data.image_size_px,) * 2
    size = max(buckets, key=lambda size: size[0] * size[1], default=side)
    return model.work_bytes(-(-data.global_batch_size // devices_of(run)), size, precision_of(run))


def precision_of(run: Any) -> str:
    """Return the trainer's precision that the config asks for, be its devices on this machine or not.

    Args:
        run: Built, not started.
    """
    return str(run.config[run.subcommand].trainer.precision or "32-true")


def class_of(setting: Any) -> str:
    """Return the class path of a setting that is written as a word or as `class_path` and `init_args`.

    Args:
        setting: A node of a parsed config, or the class that is the default; None names nothing.
    """
    if isinstance(setting, type):
        return f"{setting.__module__}.{setting.__qualname__}"
    if setting is None or isinstance(setting, str):
        return setting or ""
    return str(setting.get("class_path", ""))


def shards_of(run: Any) -> int:
    """Return over how many devices the strategy divides the student: all of them, or those of one replica.

    Args:
        run: Built, not started.
    """
    strategy = run.config[run.subcommand].trainer.strategy
    if not any(word in class_of(strategy) for word in _SHARDING):
        return 1
    return max(1, devices_of(run) // max(1, int(of_strategy(run, "replicas", 1))))


def of_strategy(run: Any, name: str, otherwise: Any) -> Any:
    """Return what the strategy is given under a name, be its devices on this machine or not.

    Args:
        run: Built, not started.
        name: Of the argument.
        otherwise: Taken where the strategy is a word, or is not given it.
    """
    return _argument(run.config[run.subcommand].trainer.strategy, name, otherwise)


def devices_of(run: Any) -> int:
    """Return how many devices train.

    Args:
        run: Built, not started.
    """
    wanted = run.config[run.subcommand].trainer
    written = str(wanted.devices)  # a flag is text: `--trainer.devices 8`
    devices = int(written) if written.isdecimal() and int(written) > 0 else run.trainer.num_devices
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


def _optimizer(model: Any) -> Any:
    return _argument(model, "optimizer", None)


def _argument(setting: Any, name: str, otherwise: Any) -> Any:
    """Return what a setting is given under a name; `otherwise` where it is a word or says nothing."""
    arguments = None if setting is None or isinstance(setting, str) else setting.get("init_args")
    return otherwise if arguments is None else arguments.get(name, otherwise)
