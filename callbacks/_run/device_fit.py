"""Do student, judge and teachers fit the devices? What the pure sums need, read from a module and its parts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from evolvedirector.planning.memory import Offload, PhaseBytes, StudentBytes, gib, phases, student_bytes, too_large


def phases_of(callback: Any, student: StudentBytes, callbacks: Iterable[Any]) -> list[PhaseBytes]:
    """List what a device holds in each phase of a run, as far as its parts say their size.

    Args:
        callback: The one that evolves the data: `judge`, `teachers`, `offload_student`.
        student: On one device.
        callbacks: All of the trainer; those without a judge of the training data measure.
    """
    evaluators: dict[str, int] = {}
    for other in callbacks:
        if not hasattr(other, "judge"):
            evaluators |= _sizes({f"{type(other).__name__}.{name}": part for name, part in vars(other).items()})
    judges = _sizes({"the judge": callback.judge})
    teachers = _sizes({f"the teacher {name}": part for name, part in callback.teachers.items()})
    writers = _sizes({"the writer": getattr(callback, "writer", None)})
    return phases(student, callback.offload_student, judges, teachers, evaluators, writers)


def student_on_device(trainer: pl.Trainer, module: pl.LightningModule) -> StudentBytes:
    """Count what the student takes on this rank's device, sharded parameters by their local part.

    Args:
        trainer: Knows averages; its optimizers exist.
        module: The student, configured.
    """
    values = [_local(part) for part in module.parameters()]
    trained = sum(_local(part) for part in module.parameters() if part.requires_grad)
    return student_bytes(
        sum(values) + sum(_local(part) for part in module.buffers()),
        trained,
        averaged_copies=averages(trainer.callbacks),  # type: ignore[attr-defined]
        optimizer_bytes=max((optimizer_bytes(type(part).__name__) for part in trainer.optimizers), default=0),
        frozen=frozen_bytes(module),
    )


def check_memory(callback: Any, trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Refuse what cannot fit a GPU, with figures; warn where main memory is short. Activations are not counted.

    Args:
        callback: The one that evolves the data.
        trainer: Its devices are set up.
        module: The student, configured.

    Raises:
        ValueError: Weights alone are too large for the device.
    """
    listed = phases_of(callback, student_on_device(trainer, module), trainer.callbacks)  # type: ignore[attr-defined]
    device = trainer.strategy.root_device
    offload: Offload = callback.offload_student
    if device.type == "cuda":
        problem = too_large(listed, torch.cuda.get_device_properties(device).total_memory, offload)
        if problem is not None:
            raise ValueError(problem)
    elif device.type == "cpu" and (memory := main_memory_bytes()) is not None:
        problem = too_large(listed, memory // max(1, trainer.num_devices), "none")
        if problem is not None:
            rank_zero_warn(problem)


def averages(callbacks: Iterable[Any]) -> int:
    """Count the callbacks that keep an average of the weights on the device."""
    return sum("EMA" in type(part).__name__ or "Averag" in type(part).__name__ for part in callbacks)


def optimizer_bytes(name: str) -> int:
    """Return the bytes of state per trained value: two fp32 moments unless the optimizer is known to keep less.

    Args:
        name: Class of the optimizer.
    """
    known = {"SGD": 4, "Adafactor": 1, "Lion": 4, "AdamW8bit": 2, "Adam8bit": 2, "Lion8bit": 1}
    return known.get(name, 8)


def frozen_bytes(module: Any) -> int:
    """Return the size of frozen parts that stand beside the module's parameters, as far as they say it."""
    return sum(_sizes({name: getattr(module, name, None) for name in ("text_encoder", "autoencoder")}).values())


def main_memory_bytes() -> int | None:
    """Return the machine's main memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def memory_rows(listed: Iterable[PhaseBytes]) -> dict[str, str]:
    """Put phases into words, for `evolvedirector check`.

    Args:
        listed: As `phases_of` lists them.
    """
    rows = {}
    for phase in listed:
        tenant = f" + {phase.who} {gib(phase.tenant)}" if phase.who else ""
        rows[f"{phase.phase}"] = f"{gib(phase.total)}: student {gib(phase.student)}{tenant}"
    return rows


def _local(part: torch.Tensor) -> int:
    if is_lazy(part):
        return 0  # a lazy layer has no size before its first batch
    return (part.to_local() if isinstance(part, DTensor) else part).numel()


def _sizes(parts: Mapping[str, Any]) -> dict[str, int]:
    """Ask parts for their size in bytes on a device; a part that takes none, or cannot say, is left out."""
    found = {}
    for name, part in parts.items():
        for key, one in part.items() if isinstance(part, Mapping) else [("", part)]:
            if (size := _size(one)) > 0:
                found[f"{name}.{key}" if key else name] = size
    return found


def _size(part: Any) -> int:
    tell = getattr(part, "estimated_bytes", None)
    if not callable(tell) or isinstance(part, type):
        return 0
    try:
        return int(tell() or 0)
    except (ValueError, OSError, ImportError):  # what is wrong with its files is told by its `verify`
        return 0
