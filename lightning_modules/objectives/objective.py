"""The seam behind which every training objective stands."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Objective(Protocol):
    """Say how a clean image is made noisy, what the transformer predicts of it, and how samples are drawn back.

    `time` is whatever the objective draws (flow time in [0, 1], or a diffusion step); the transformer is told
    `transformer_time(time)`, always on the scale 0...1000 of the diffusers schedulers.
    """

    def draw_time(self, generator: torch.Generator) -> float:
        """Draw the time of one sample."""
        ...

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Make clean images noisy, each at its own time."""
        ...

    def transformer_time(self, time: Tensor) -> Tensor:
        """Scale times to 0...1000."""
        ...

    def loss(self, prediction: Tensor, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return one loss per sample."""
        ...

    def scheduler(self, steps: int) -> Any:
        """Make a fresh diffusers scheduler, set to `steps` sampling steps."""
        ...

    def scheduler_input(self, prediction: Tensor, noisy: Tensor, scheduler_time: Tensor) -> Tensor:
        """Turn a prediction into what the scheduler's `step` expects; `scheduler_time` is on the scale 0...1000."""
        ...


@runtime_checkable
class LearnsVariance(Protocol):
    """An objective that can train the variance of the steps back, beside their mean."""

    @property
    def learns_variance(self) -> bool:
        """Say whether its loss reads predictions of twice as many channels: the usual one, then the variance."""
        ...
