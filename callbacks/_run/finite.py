"""A student whose weights are not finite is neither saved over others nor paid for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import lightning.pytorch as pl
from torch import Tensor

from evolvedirector.errors import RunError
from evolvedirector.models.finite import all_finite


@runtime_checkable
class CountsNonFinite(Protocol):
    """A module that counts its steps whose loss or gradient is not finite."""

    @property
    def nonfinite_in_a_row(self) -> int:
        """Return how many there were in a row, up to the last step."""
        ...


def refuse_nonfinite_weights(trainer: pl.Trainer, left_undone: str) -> None:
    """End a run whose trained weights are not finite; call it on every rank, all of which end alike.

    Such weights never recover. It reads all trainable weights once.

    Args:
        trainer: Trains the module.
        left_undone: What is not done for them, as a sentence: `Nothing is bought.`

    Raises:
        RunError: They are not.
    """
    if trainer.strategy.reduce_boolean_decision(all_finite(_trained(trainer.lightning_module))):
        return
    raise RunError(
        f"The weights of {type(trainer.lightning_module).__name__} are not finite at step {trainer.global_step}. "
        f"{left_undone} A student of finite numbers is allowed. Lower the learning rate, or set "
        "trainer.gradient_clip_val: 1.0, then go on with --ckpt_path last; if they began so, correct the pretrained "
        "weights."
    )


def last_step_was_finite(trainer: pl.Trainer) -> bool:
    """Return whether the module's last step was finite, as far as it counts them."""
    module = trainer.lightning_module
    return not (isinstance(module, CountsNonFinite) and module.nonfinite_in_a_row)


def _trained(module: pl.LightningModule) -> Iterator[Tensor]:
    return (parameter for parameter in module.parameters() if parameter.requires_grad)
