"""A learning-rate schedule: warm up, hold, decay."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from evolvedirector.errors import UserError


def warmup_decay_factor(step: int, total_steps: int, warmup_steps: int, decay_share: float) -> float:
    """Return min(1, (s + 1) / w) * min(1, (S - s) / (d S)): linear rise, plateau, linear fall to zero.

    Args:
        step: optimizer steps so far, s.
        total_steps: steps of the whole run, S.
        warmup_steps: length of the rise, w; 0 starts at the full rate.
        decay_share: length of the fall as a share of the run, d; 0 never falls.
    """
    rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    fall = min(1.0, max(0, total_steps - step) / (decay_share * total_steps)) if decay_share else 1.0
    return rise * fall


class WarmupDecayLR(LambdaLR):
    """Warm the learning rate up, keep it, and let it fall to zero over the last part of training.

    Args:
        optimizer: its groups' rates are scaled.
        total_steps: optimizer steps of the whole run; equals the trainer's max_steps.
        warmup_steps: steps of linear rise.
        decay_share: share of the run over which the rate falls; 0 keeps it.

    Raises:
        UserError: if the numbers are no schedule.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, decay_share: float = 0.3) -> None:
        if total_steps < 1 or warmup_steps < 0 or not 0 <= decay_share <= 1:
            raise UserError(
                f"total_steps is {total_steps}, warmup_steps {warmup_steps}, decay_share {decay_share}. Allowed: "
                f"total_steps >= 1, warmup_steps >= 0, decay_share from 0 to 1. Write total_steps as in max_steps."
            )
        # kept by name, so that a checkpoint says what was written
        self.total_steps, self.warmup_steps, self.decay_share = total_steps, warmup_steps, decay_share
        super().__init__(optimizer, lambda step: warmup_decay_factor(step, total_steps, warmup_steps, decay_share))
