"""Denoising diffusion: predict the noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.objectives.prediction_targets import (
    diffuse,
    linear_alphas_cumprod,
    mean_square_per_sample,
)
from evolvedirector.lightning_modules.objectives.variational_bound import (
    VarianceRange,
    linear_variance_range,
    variational_term,
)

_alphas_cumprod = lru_cache(maxsize=4)(linear_alphas_cumprod)
_variance_range = lru_cache(maxsize=4)(linear_variance_range)


@dataclass(frozen=True)
class DDPMEpsilon:
    """Learn the noise of a discrete diffusion: loss = |e' - e|^2 (Ho et al. 2020, arXiv:2006.11239, eq. 14).

    A network with learned variance (PixArt, Edgen: twice as many output channels) is trained on L_simple + w L_vlb
    (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 16), where L_vlb is estimated by the term of the drawn step, once for
    each step, and trains the variance alone. Without w those outputs stay as they are; the samplers used here do not
    read them.

    Args:
        train_steps: number of diffusion steps.
        first_beta: noise added by the first step.
        last_beta: noise added by the last step; betas are linear in between.
        sampler: `dpm_solver` (20 steps suffice) or `ddim`.
        variational_weight: w, weight of the bound that trains a learned variance; published 0.001, which with 1000
            steps counts the drawn term once. 0 leaves the term out, as for networks without learned variance.

    Raises:
        UserError: if the weight is negative.
    """

    train_steps: int = 1000
    first_beta: float = 0.0001
    last_beta: float = 0.02
    sampler: Literal["dpm_solver", "ddim"] = "dpm_solver"
    variational_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.variational_weight < float("inf"):
            raise UserError(
                f"variational_weight is {self.variational_weight}. Allowed are 0 (the variance is not trained) and "
                "more. Write variational_weight: 0.001, as published."
            )

    @property
    def learns_variance(self) -> bool:
        """Whether the loss reads what a network says of the variance."""
        return self.variational_weight > 0

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
        """Return |e' - e|^2 per sample, and with learned variance its weighted bound.

        Args:
            prediction: e'; with learned variance, twice as many channels: e', then v.
            clean: The image or latent.
            noise: e.
            time: The diffusion step.
        """
        if not self.learns_variance:
            return mean_square_per_sample(prediction - noise)
        noise_guess, variance_guess = prediction.split(clean.shape[1], dim=1)
        numbers = (self.train_steps, self.first_beta, self.last_beta)
        variances = VarianceRange(*(table.to(clean.device) for table in _variance_range(*numbers)))
        term = variational_term(noise_guess.detach(), variance_guess, clean, noise, time.long(), variances)
        return mean_square_per_sample(noise_guess - noise) + self.variational_weight * self.train_steps * term

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
