"""Make the optimizer of a run from what is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn
from torch.optim import Optimizer

from evolvedirector.lightning_modules.sharded_strategy import refuse_unshardable_optimizer

Named = Sequence[tuple[str, nn.Parameter]]
"""What is trained, each with its name."""


@runtime_checkable
class OptimizerFactory(Protocol):
    """Settings of an optimizer that treats parameters by their names: stand where a class of torch.optim would."""

    def from_named(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> Optimizer:
        """Make the optimizer; the names are those in a checkpoint."""
        ...


def make_optimizer(make: Callable[[Any], Optimizer] | OptimizerFactory, parameters: Named, precision: str) -> Optimizer:
    """Make an optimizer, fused where that costs nothing.

    Args:
        make: Takes the parameters, or the parameters with their names.
        parameters: What is trained.
        precision: Lightning's.

    Raises:
        UserError: The optimizer cannot step parameters that are sharded.
    """
    if isinstance(make, OptimizerFactory):
        optimizer = make.from_named(parameters)
    else:
        optimizer = make([parameter for _, parameter in parameters])
    refuse_unshardable_optimizer(optimizer)
    on_gpu = all(parameter.device.type == "cuda" for _, parameter in parameters)
    # behind a loss scaler a fused step unscales gradients only after they were clipped
    return fused(optimizer) if on_gpu and precision != "16-mixed" else optimizer


def fused(optimizer: Optimizer) -> Optimizer:
    """Return AdamW or Adam of torch as one kernel over all parameters; any other, or one with a say in it, as it is.

    Args:
        optimizer: Just made.
    """
    kind = type(optimizer)
    if kind not in (torch.optim.AdamW, torch.optim.Adam):
        return optimizer
    known = inspect.signature(kind.__init__).parameters
    settings = {name: value for name, value in optimizer.defaults.items() if name in known}
    groups = optimizer.param_groups
    if any(group["fused"] is not None or group["foreach"] or group["differentiable"] for group in groups):
        return optimizer
    return cast(Optimizer, kind([{**group, "fused": True} for group in groups], **{**settings, "fused": True}))
