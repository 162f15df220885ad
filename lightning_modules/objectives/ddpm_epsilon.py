"""Denoising diffusion: predict the noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.lightning_modules.objectives.prediction_targets import (
    diffuse,
    linear_alphas_cumprod,
    mean_square_per_sample,
)

_alphas_cumprod = lru_cache(maxsize=4)(linear_alphas_cumprod)


@dataclass(frozen=True)
class DDPMEpsilon:
    """Learn the noise of a discrete diffusion: loss = |e' - e|^2 (Ho et al. 2020, arXiv:2006.11239, eq. 14).

    A transformer with learned variance (PixArt-alpha, Edgen: eight output channels) keeps those outputs, but the
    variational-bound term that would train them is not part of this loss; the samplers used here do not read them.

    Args:
        train_steps: number of diffusion steps.
        first_beta: noise added by the first step.
        last_beta: noise added by the last step; betas are linear in between.
        sampler: `dpm_solver` (20 steps suffice) or `ddim`.
    """

    train_steps: int = 1000
    first_beta: float = 0.0001
    last_beta: float = 0.02
    sampler: Literal["dpm_solver", "ddim"] = "dpm_solver"

    def draw_time(self, generator: torch.Generator) -> float:
        """Draw the diffusion step of one sample, 0...train_steps - 1."""
        return float(torch.randint(self.train_steps, (), generator=generator))

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the image after `time` diffusion steps."""
        alphas = _alphas_cumprod(self.train_steps, self.first_beta, self.last_beta).to(clean.device)
        return diffuse(clean, noise, time.long(), alphas)

    def transformer_time(self, time: Tensor) -> Tensor:
        """Return the steps as they are: the diffusers schedulers count the same way."""
        return time

    def loss(self, prediction: Tensor, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return |e' - e|^2 per sample."""
        return mean_square_per_sample(prediction - noise)

    def scheduler(self, steps: int) -> Any:
        """Make a scheduler of the same betas."""
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

        scheduler: Any
        betas = {
            "num_train_timesteps": self.train_steps,
            "beta_start": self.first_beta,
            "beta_end": self.last_beta,
            "beta_schedule": "linear",
        }
        if self.sampler == "ddim":
            scheduler = DDIMScheduler(**betas, clip_sample=False, timestep_spacing="trailing")
        else:
            scheduler = DPMSolverMultistepScheduler(**betas)
            scheduler.set_begin_index(0)  # spares a search, and a wait for the device, in every step
        scheduler.set_timesteps(steps)
        return scheduler

    def scheduler_input(self, prediction: Tensor, noisy: Tensor, scheduler_time: Tensor) -> Tensor:
        """Return the noise as predicted."""
        return prediction
