"""What a transformer is asked to predict: pure functions, each headed by its equation.

Symbols: x0 a clean image or latent in about [-1, 1], e unit Gaussian noise, t in [0, 1] flow time (0 clean, 1 noise).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def per_sample(values: Float[Tensor, " batch"], like: Tensor) -> Tensor:
    """Shape one value per sample so that it broadcasts over the other axes of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def interpolate(
    clean: Float[Tensor, "batch channel height width"],
    noise: Float[Tensor, "batch channel height width"],
    time: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channel height width"]:
    """Return x_t = (1 - t) x0 + t e, the straight path of rectified flow (Liu et al. 2022, arXiv:2209.03003, eq. 1)."""
    t = per_sample(time, clean)
    return (1 - t) * clean + t * noise


def velocity(
    clean: Float[Tensor, "batch channel height width"], noise: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch channel height width"]:
    """Return v = dx_t/dt = e - x0, the same along the whole straight path."""
    return noise - clean


def velocity_from_clean(
    noisy: Float[Tensor, "batch channel height width"],
    clean: Float[Tensor, "batch channel height width"],
    time: Float[Tensor, " batch"],
    smallest_time: float,
) -> Float[Tensor, "batch channel height width"]:
    """Return v = (x_t - x0) / max(t, t_min).

    It follows from x_t = x0 + t v. The quotient has no limit at t -> 0 for an inexact x0, hence the floor t_min.
    """
    return (noisy - clean) / per_sample(time.clamp_min(smallest_time), clean)


def logit_normal_time(gaussian: float, mean: float, deviation: float) -> float:
    """Return t = sigmoid(mean + deviation z), z ~ N(0, 1) (Esser et al. 2024, arXiv:2403.03206, eq. 19)."""
    return 1 / (1 + math.exp(-(mean + deviation * gaussian)))


def linear_alphas_cumprod(steps: int, first_beta: float, last_beta: float) -> Float[Tensor, " steps"]:
    """Return a_t = prod_{s <= t} (1 - beta_s), beta linear in s (Ho et al. 2020, arXiv:2006.11239, section 4)."""
    return torch.cumprod(1 - torch.linspace(first_beta, last_beta, steps, dtype=torch.float64), 0).float()


def scaled_linear_alphas_cumprod(steps: int, first_beta: float, last_beta: float) -> Float[Tensor, " steps"]:
    """Return a_t = prod_{s <= t} (1 - beta_s), sqrt(beta) linear in s: latent diffusion (arXiv:2112.10752)."""
    roots = torch.linspace(first_beta**0.5, last_beta**0.5, steps, dtype=torch.float64)
    return torch.cumprod(1 - roots**2, 0).float()


def with_zero_terminal_snr(alphas_cumprod: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """Shift sqrt(a_t) to zero at the last step, then scale it so that the first step keeps its value.

    Lin et al. 2023 (arXiv:2305.08891), algorithm 1.
    """
    roots = alphas_cumprod.double().sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square().float()


def diffusion_velocity(
    clean: Float[Tensor, "batch channel height width"],
    noise: Float[Tensor, "batch channel height width"],
    step: Int[Tensor, " batch"],
    alphas_cumprod: Float[Tensor, " steps"],
) -> Float[Tensor, "batch channel height width"]:
    """Return v = sqrt(a_t) e - sqrt(1 - a_t) x0 (Salimans & Ho 2022, arXiv:2202.00512, appendix D)."""
    alpha = per_sample(alphas_cumprod[step], clean)
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


def min_snr_weight(alpha_cumprod: Float[Tensor, " batch"], gamma: float, is_velocity: bool) -> Float[Tensor, " batch"]:
    """Return min(SNR, gamma) / SNR for the noise, / (SNR + 1) for the velocity, SNR = a / (1 - a).

    An error of x0 counts SNR-fold in |e' - e|^2 and (SNR + 1)-fold in |v' - v|^2, so that min(SNR, gamma) is left (Hang
    et al. 2023, arXiv:2303.09556, section 3.4).
    """
    snr = alpha_cumprod / (1 - alpha_cumprod)
    return snr.clamp_max(gamma) / (snr + 1 if is_velocity else snr)


def diffuse(
    clean: Float[Tensor, "batch channel height width"],
    noise: Float[Tensor, "batch channel height width"],
    step: Int[Tensor, " batch"],
    alphas_cumprod: Float[Tensor, " steps"],
) -> Float[Tensor, "batch channel height width"]:
    """Return x_t = sqrt(a_t) x0 + sqrt(1 - a_t) e (Ho et al. 2020, arXiv:2006.11239, eq. 4)."""
    alpha = per_sample(alphas_cumprod[step], clean)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def mean_square_per_sample(difference: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Return the mean of the squares of each sample."""
    return difference.float().square().flatten(1).mean(1)
