"""Flow matching: a straight path between noise and image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from evolvedirector.lightning_modules.objectives.prediction_targets import (
    interpolate,
    logit_normal_time,
    mean_square_per_sample,
    per_sample,
    velocity,
    velocity_from_clean,
)

# Sampling divides by t without the training floor, so that the last step lands on the predicted x0 exactly;
# no scheduler evaluates the transformer below 1/1000.
SMALLEST_SAMPLING_TIME = 1e-3


def schedule(steps: int, equal_steps: bool) -> dict[str, Any]:
    """Return what names the unshifted times of a diffusers scheduler.

    Args:
        steps: Number of sampling steps.
        equal_steps: See `FlowMatching`.
    """
    if not equal_steps:
        return {"num_inference_steps": steps}
    return {"sigmas": np.linspace(1.0, 1 / steps, steps)}


@dataclass(frozen=True)
class FlowMatching:
    """Learn the velocity of the straight path from image to noise: loss = |v' - v|^2, v = e - x0.

    Rectified flow (Liu et al. 2022, arXiv:2209.03003) with logit-normal times (Esser et al. 2024, arXiv:2403.03206).
    With `prediction="x0"` the transformer gives the clean image and v' = (x_t - x0') / max(t, smallest_time)
    (Li & He 2025, arXiv:2511.13720): with large patches the noise does not fit through the network, the image does.

    Args:
        prediction: what the transformer gives: the clean image (`x0`) or the `velocity`.
        time_distribution: `logit_normal` puts most draws at medium noise; `uniform` draws all alike.
        time_mean: mean of the normal distribution before the sigmoid; above 0 means more noise.
        time_deviation: its standard deviation.
        smallest_time: floor of t in the x0 loss; it caps the weight 1/t^2.
        shift: time shift of the sampling schedule, t -> shift t / (1 + (shift - 1) t); 1 spaces the steps evenly.
        equal_steps: before the shift, all sampling steps have one length: times 1, 1 - 1/n ... 1/n (FLUX.1, FLUX.2).
            False ends at the scheduler's smallest time, from where the last step is a short one (SD3).
    """

    prediction: Literal["velocity", "x0"] = "velocity"
    time_distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    time_mean: float = 0.0
    time_deviation: float = 1.0
    smallest_time: float = 0.05
    shift: float = 1.0
    equal_steps: bool = False

    def draw_time(self, generator: torch.Generator) -> float:
        """Draw the flow time of one sample, in (0, 1)."""
        if self.time_distribution == "uniform":
            return float(torch.rand((), generator=generator))
        return logit_normal_time(float(torch.randn((), generator=generator)), self.time_mean, self.time_deviation)

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the point at `time` on the straight path."""
        return interpolate(clean, noise, time)

    def transformer_time(self, time: Tensor) -> Tensor:
        """Scale times from [0, 1] to [0, 1000]."""
        return time * 1000

    def loss(self, prediction: Tensor, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return |v' - v|^2 per sample."""
        if self.prediction == "velocity":
            return mean_square_per_sample(prediction - velocity(clean, noise))
        # both velocities share x_t and the floored t, so their difference is that of the clean images over t
        return mean_square_per_sample((prediction - clean) / per_sample(time.clamp_min(self.smallest_time), clean))

    def scheduler(self, steps: int) -> Any:
        """Make an Euler scheduler of the flow."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=self.shift)
        scheduler.set_timesteps(**schedule(steps, self.equal_steps))
        scheduler.set_begin_index(0)  # spares a search, and a wait for the device, in every step
        return scheduler

    def scheduler_input(self, prediction: Tensor, noisy: Tensor, scheduler_time: Tensor) -> Tensor:
        """Return the velocity."""
        if self.prediction == "velocity":
            return prediction
        time = (scheduler_time / 1000).expand(len(noisy))
        return velocity_from_clean(noisy, prediction, time, SMALLEST_SAMPLING_TIME)
