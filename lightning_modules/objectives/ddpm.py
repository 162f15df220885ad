"""Denoising diffusion as Stable Diffusion runs it: scaled-linear betas, and noise or velocity as the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.objectives.prediction_targets import (
    diffuse,
    diffusion_velocity,
    linear_alphas_cumprod,
    mean_square_per_sample,
    min_snr_weight,
    scaled_linear_alphas_cumprod,
    with_zero_terminal_snr,
)

if TYPE_CHECKING:
    from jaxtyping import Float

_PREDICTION_TYPES = {"epsilon": "epsilon", "velocity": "v_prediction"}


@dataclass(frozen=True)
class DDPM:
    """Learn the noise or the velocity of a discrete diffusion; the defaults are those of Stable Diffusion 1.x and XL.

    With x_t = sqrt(a_t) x0 + sqrt(1 - a_t) e the loss is |e' - e|^2 (Ho et al. 2020, arXiv:2006.11239, eq. 14), or
    |v' - v|^2 with v = sqrt(a_t) e - sqrt(1 - a_t) x0 (Salimans & Ho 2022, arXiv:2202.00512, appendix D), which Stable
    Diffusion 2.1 at 768 px learns. The betas are linear in their square root (Rombach et al. 2022, arXiv:2112.10752).
    `DDPMEpsilon` has the linear betas of PixArt-alpha.

    Args:
        prediction: What the network gives: the noise (`epsilon`) or the `velocity`. Weights that learned one of them
            draw nothing with the other.
        beta_schedule: Betas linear in their square root (`scaled_linear`), or themselves (`linear`).
        train_steps: Number of diffusion steps.
        first_beta: Noise added by the first step.
        last_beta: Noise added by the last step.
        zero_terminal_snr: Rescale the betas so that the last step leaves noise alone (Lin et al. 2023,
            arXiv:2305.08891, algorithm 1). Needs `velocity` and `trailing`.
        min_snr_gamma: Weigh a sample by min(SNR, gamma) over the weight that its loss already puts on x0 (Hang et al.
            2023, arXiv:2303.09556; 5 is usual); None weighs all alike, as published.
        sampler: `euler` is what SDXL is published with; `dpm_solver` needs the fewest steps; or `ddim`.
        timestep_spacing: Which training steps the sampler takes (arXiv:2305.08891, table 2). `leading`, one later, is
            what Stable Diffusion is published with.

    Raises:
        UserError: The last step is to hold noise alone, and prediction or spacing cannot begin there.
    """

    prediction: Literal["epsilon", "velocity"] = "epsilon"
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    train_steps: int = 1000
    first_beta: float = 0.00085
    last_beta: float = 0.012
    zero_terminal_snr: bool = False
    min_snr_gamma: float | None = None
    sampler: Literal["euler", "dpm_solver", "ddim"] = "euler"
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "leading"

    def __post_init__(self) -> None:
        if self.zero_terminal_snr and (self.prediction, self.timestep_spacing) != ("velocity", "trailing"):
            raise UserError(
                f"zero_terminal_snr is true with prediction {self.prediction} and timestep_spacing "
                f"{self.timestep_spacing}. The last step holds noise alone: to name it says nothing about the image, "
                "and drawing must begin there. Write prediction: velocity, timestep_spacing: trailing."
            )
        if self.min_snr_gamma is not None and self.min_snr_gamma <= 0:
            raise UserError(
                f"min_snr_gamma is {self.min_snr_gamma}. Allowed is a number above 0, or null for equal weights. "
                "Write min_snr_gamma: 5.0."
            )

    def draw_time(self, generator: torch.Generator) -> float:
        """Draw the diffusion step of one sample, 0...train_steps - 1."""
        return float(torch.randint(self.train_steps, (), generator=generator))

    def corrupt(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the image after `time` diffusion steps."""
        return diffuse(clean, noise, time.long(), self._alphas_cumprod(clean.device))

    def transformer_time(self, time: Tensor) -> Tensor:
        """Return the steps as they are: the diffusers schedulers count the same way."""
        return time

    def loss(self, prediction: Tensor, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return |e' - e|^2 or |v' - v|^2 per sample, weighted where that is asked for."""
        alphas, steps = self._alphas_cumprod(clean.device), time.long()
        target = noise if self.prediction == "epsilon" else diffusion_velocity(clean, noise, steps, alphas)
        losses = mean_square_per_sample(prediction - target)
        if self.min_snr_gamma is None:
            return losses
        return losses * min_snr_weight(alphas[steps], self.min_snr_gamma, self.prediction == "velocity")

    def scheduler(self, steps: int) -> Any:
        """Make a scheduler of the same betas."""
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

        settings: dict[str, Any] = {
            "num_train_timesteps": self.train_steps,
            "beta_start": self.first_beta,
            "beta_end": self.last_beta,
            "beta_schedule": self.beta_schedule,
            "prediction_type": _PREDICTION_TYPES[self.prediction],
            "timestep_spacing": self.timestep_spacing,
            "rescale_betas_zero_snr": self.zero_terminal_snr,
            "steps_offset": 1,  # read where the spacing is `leading`; the stock pipeline insists on it
        }
        scheduler: Any
        if self.sampler == "ddim":  # ends at the first step's noise, as published, not at none
            scheduler = DDIMScheduler(**settings, clip_sample=False, set_alpha_to_one=False)
        else:
            scheduler = (EulerDiscreteScheduler if self.sampler == "euler" else DPMSolverMultistepScheduler)(**settings)
        scheduler.set_timesteps(steps)
        if self.sampler != "ddim":
            scheduler.set_begin_index(0)  # spares a search, and a wait for the device, in every step
        return scheduler

    def scheduler_input(self, prediction: Tensor, noisy: Tensor, scheduler_time: Tensor) -> Tensor:
        """Return the prediction: the scheduler is told what it means."""
        return prediction

    def _alphas_cumprod(self, device: torch.device) -> Float[Tensor, " steps"]:
        return _alphas_of(
            self.beta_schedule, self.train_steps, self.first_beta, self.last_beta, self.zero_terminal_snr
        ).to(device)


@lru_cache(maxsize=8)
def _alphas_of(
    schedule: str, steps: int, first_beta: float, last_beta: float, zero_terminal_snr: bool
) -> Float[Tensor, " steps"]:
    made = scaled_linear_alphas_cumprod if schedule == "scaled_linear" else linear_alphas_cumprod
    alphas = made(steps, first_beta, last_beta)
    return with_zero_terminal_snr(alphas) if zero_terminal_snr else alphas
