"""Optimizers that train one set of weights and evaluate another: which of them a network holds now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class SwitchesWeights(Protocol):
    """An optimizer without schedule (Defazio et al. 2024, arXiv:2405.15682): it evaluates an average that it keeps."""

    param_groups: list[dict[str, Any]]

    def train(self) -> Any:
        """Put the weights at which gradients are taken into the network."""
        ...

    def eval(self) -> Any:
        """Put the averaged weights into the network."""
        ...


def train_weights(optimizers: Iterable[object]) -> None:
    """Let the network hold what is trained; call it before a training step.

    Args:
        optimizers: Of the run; others than those that switch are left alone.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, SwitchesWeights):
            optimizer.train()


def evaluate_weights(optimizers: Iterable[object]) -> None:
    """Let the network hold what is evaluated, drawn with and saved.

    Args:
        optimizers: Of the run; others than those that switch are left alone.
    """
    for optimizer in optimizers:
        if isinstance(optimizer, SwitchesWeights):
            optimizer.eval()


@contextmanager
def evaluated_weights(optimizers: Iterable[object]) -> Iterator[None]:
    """Let the network hold what is evaluated for a while.

    Args:
        optimizers: Of the run.
    """
    switched = [one for one in optimizers if isinstance(one, SwitchesWeights) and one.param_groups[0].get("train_mode")]
    for optimizer in switched:
        optimizer.eval()
    try:
        yield
    finally:
        for optimizer in switched:
            optimizer.train()
