"""Gradient clipping for plain, replicated and sharded parameters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from evolvedirector.errors import UserError


def clip_gradients(
    optimizer: torch.optim.Optimizer, limit: float, algorithm: str, loss_is_scaled: bool
) -> Tensor | None:
    """Scale gradients to a global norm of at most `limit`, or clamp each value to it.

    The norm of sharded gradients is that of the whole model. Fused optimizers are fine in fp32 and bf16: only with a
    loss scaler do they unscale gradients inside their step, after clipping.

    Args:
        optimizer: its parameters' gradients are clipped.
        limit: largest norm or absolute value.
        algorithm: `norm` or `value`.
        loss_is_scaled: whether a loss scaler is active (fp16).

    Returns:
        The norm before clipping; None for `value`.

    Raises:
        UserError: for a fused optimizer behind a loss scaler.
    """
    if loss_is_scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
        raise UserError(
            f"{type(optimizer).__name__}(fused=True) cannot be clipped under precision 16-mixed: it unscales gradients "
            f"only in its step. Allowed: another precision, or fused=False. Write precision: bf16-mixed."
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if algorithm == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
        return None
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
