"""Tensors that have shapes and no memory: what work is traced on before anything is loaded."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from evolvedirector.errors import UserError
from evolvedirector.planning.allocations import AllocationTracker

_HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@contextmanager
def faked(network: nn.Module) -> Iterator[tuple[nn.Module, AllocationTracker]]:
    """Lend a copy of a network on the meta device, as if on the CPU, and a tracker that knows its weights.

    Args:
        network: Without memory.

    Raises:
        UserError: Some of its weights are kept in a form of their own.
    """
    network = copy.deepcopy(network)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in network.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    if type(value) is not nn.Parameter:
                        raise UserError(f"{type(value).__name__} is kept in a form of its own")
                    part._parameters[name] = nn.Parameter(_fake(value), value.requires_grad)
            for name, buffer in part._buffers.items():
                part._buffers[name] = None if buffer is None else _fake(buffer)
            for name, held in vars(part).items():  # tables that are no buffers, such as those of rotary positions
                if not name.startswith("_"):
                    vars(part)[name] = _faked_inside(held)
        with AllocationTracker() as tracker:
            yield network, tracker


def _faked_inside(held: Any) -> Any:
    if isinstance(held, Tensor):
        return _fake(held) if held.device.type == "meta" else held
    if type(held) in (list, tuple):
        return type(held)(_faked_inside(part) for part in held)
    return held


def _fake(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype)


def autocast_of(precision: str) -> AbstractContextManager[Any]:
    """Return the autocast of a precision, on the CPU.

    Args:
        precision: Of the trainer.
    """
    half = _HALF.get(precision)
    return nullcontext() if half is None else torch.autocast("cpu", half)
