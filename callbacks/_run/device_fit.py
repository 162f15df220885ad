"""Do student, judge and teachers fit the devices? What `planning/memory.py` adds up, read from module and trainer."""

from __future__ import annotations

from collections.abc import Iterable

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from evolvedirector.callbacks._run.drawing import AveragesWeights
from evolvedirector.errors import UserError
from evolvedirector.models.quantised import constant_bytes
from evolvedirector.planning.memory import (
    Offload,
    StudentBytes,
    frozen_bytes,
    main_memory_bytes,
    state_bytes,
    student_bytes,
    too_large,
)
from evolvedirector.planning.roles import EvolutionPlan, phases_of


def student_on_device(trainer: pl.Trainer, module: pl.LightningModule) -> StudentBytes:
    """Count what the student takes on this rank's device, sharded parameters by their local part, offloaded ones not.

    Args:
        trainer: Knows averages; its optimizers exist.
        module: The student, configured.
    """
    kept = [*module.parameters(), *module.buffers()]
    values = [_local(part) for part in kept]
    trained = sum(_local(part) for part in module.parameters() if part.requires_grad)
    return student_bytes(
        sum(values),
        trained,
        averaged_copies=averages(trainer.callbacks),  # type: ignore[attr-defined]
        optimizer_bytes=max(map(state_bytes, trainer.optimizers), default=0),
        frozen=frozen_bytes(module),
        weight_bytes=sum(count * part.itemsize for count, part in zip(values, kept, strict=True))
        + constant_bytes(module),
    )


def check_memory(plan: EvolutionPlan, trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Refuse what cannot fit a GPU, with figures; warn where main memory is short. Activations are not counted.

    Args:
        plan: Of the callback that evolves the data.
        trainer: Its devices are set up.
        module: The student, configured.

    Raises:
        UserError: Weights alone are too large for the device.
    """
    listed = phases_of(plan, student_on_device(trainer, module), trainer.callbacks)  # type: ignore[attr-defined]
    device = trainer.strategy.root_device
    offload: Offload = plan.offload_student
    if device.type == "cuda":
        problem = too_large(listed, torch.cuda.get_device_properties(device).total_memory, offload)
        if problem is not None:
            raise UserError(problem)
    elif device.type == "cpu" and (memory := main_memory_bytes()) is not None:
        problem = too_large(listed, memory // max(1, trainer.num_devices), "none")
        if problem is not None:
            rank_zero_warn(problem)


def averages(callbacks: Iterable[object]) -> int:
    """Count the callbacks that keep an average of the weights on the device."""
    return sum(
        isinstance(callback, AveragesWeights | WeightAveraging | StochasticWeightAveraging) for callback in callbacks
    )


def _local(part: torch.Tensor) -> int:
    if is_lazy(part):
        return 0  # a lazy layer has no size before its first batch
    if not isinstance(part, DTensor):
        return part.numel()
    offloaded = part.device.type != part.device_mesh.device_type
    return 0 if offloaded else part.to_local().numel()
