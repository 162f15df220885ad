"""Clipping, schedule, and what sharding refuses."""

from __future__ import annotations

import pytest
import torch

from evolvedirector.lightning_modules import WarmupDecayLR
from evolvedirector.lightning_modules.gradient_clipping import clip_gradients
from evolvedirector.lightning_modules.sharded_strategy import refuse_unshardable_optimizer
from evolvedirector.lightning_modules.warmup_decay_lr import warmup_decay_factor


def optimizer_with_gradients(fused: bool = False) -> torch.optim.Optimizer:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for parameter, gradient in zip(parameters, (3.0, -4.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    return torch.optim.AdamW(parameters, 1.0, fused=fused)


def gradients(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(parameter.grad) for parameter in optimizer.param_groups[0]["params"]]


def test_norm_is_clipped_over_all_parameters() -> None:
    optimizer = optimizer_with_gradients(fused=True)
    assert float(clip_gradients(optimizer, 1.0, "norm", loss_is_scaled=False)) == 5.0  # type: ignore[arg-type]
    assert gradients(optimizer) == pytest.approx([0.6, -0.8], rel=1e-5)


def test_values_are_clamped() -> None:
    optimizer = optimizer_with_gradients()
    assert clip_gradients(optimizer, 3.5, "value", loss_is_scaled=False) is None
    assert gradients(optimizer) == [3.0, -3.5]


def test_fused_optimizer_behind_a_loss_scaler_is_refused() -> None:
    with pytest.raises(ValueError, match="Write precision: bf16-mixed"):
        clip_gradients(optimizer_with_gradients(fused=True), 1.0, "norm", loss_is_scaled=True)


def test_schedule_rises_holds_and_falls() -> None:
    factors = [warmup_decay_factor(step, 10, 2, 0.5) for step in range(11)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    assert warmup_decay_factor(99, 10, 0, 0) == 1.0


def test_impossible_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="total_steps is 0"):
        WarmupDecayLR(optimizer_with_gradients(), total_steps=0)


def test_plain_optimizers_pass() -> None:
    refuse_unshardable_optimizer(optimizer_with_gradients())
