"""The variational bound that trains a learned variance: pure functions, each headed by its equation.

Symbols: b_t the noise of step t, a_t = prod_{s <= t} (1 - b_s), x0 a clean latent, e unit Gaussian noise, e' the guess
of a network, v in about [-1, 1] what it says of the variance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from evolvedirector.lightning_modules.objectives.prediction_targets import per_sample

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_BIN = 1 / 255  # half the width of one of 256 grey levels in [-1, 1]; published for latents, too
_LEAST = 1e-12


class VarianceRange(NamedTuple):
    """What the bound needs to know of each diffusion step: Float[steps], in fp32."""

    log_least: Tensor
    """log of b_t (1 - a_{t-1}) / (1 - a_t), the variance of the true step back; the first one takes the second's."""
    log_most: Tensor
    """log b_t."""
    noise_to_mean: Tensor
    """b_t / sqrt((1 - b_t) (1 - a_t)): how far an error in the noise moves the mean of the step back."""


def linear_variance_range(steps: int, first_beta: float, last_beta: float) -> VarianceRange:
    """Return the two ends of the learned variance (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15), linear betas."""
    betas = torch.linspace(first_beta, last_beta, steps, dtype=torch.float64)
    alphas = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    least = betas * (1 - before) / (1 - alphas)
    least[0] = least[min(1, steps - 1)]  # nothing is uncertain about the last step back, and log 0 is no number
    to_mean = betas / ((1 - betas) * (1 - alphas)).sqrt()
    return VarianceRange(least.log().float(), betas.log().float(), to_mean.float())


def variational_term(
    noise_guess: Float[Tensor, "batch channel height width"],
    variance_guess: Float[Tensor, "batch channel height width"],
    clean: Float[Tensor, "batch channel height width"],
    noise: Float[Tensor, "batch channel height width"],
    step: Int[Tensor, " batch"],
    variances: VarianceRange,
) -> Float[Tensor, " batch"]:
    """Return one term of the variational bound per sample, in bits per dimension.

    With log s = f log_most + (1 - f) log_least and f = (v + 1) / 2, the term of step t > 0 is
    KL(q(x_{t-1} | x_t, x0) || N(m, s)), that of step 0 is -log p(x0 | x_1) in bins of 2/255
    (Nichol & Dhariwal 2021, arXiv:2102.09672, eqs. 4-7 and 15). The means of both steps back differ by
    noise_to_mean (e - e'), so x_t itself is not needed.

    Args:
        noise_guess: e'; detach it, and the term trains the variance alone.
        variance_guess: v.
        clean: x0.
        noise: e.
        step: t, from 0.
        variances: Of `linear_variance_range`, on the device of the guesses.
    """
    log_least, log_most, to_mean = (per_sample(table[step], clean) for table in variances)
    share = (variance_guess.float() + 1) / 2
    log_variance = share * log_most + (1 - share) * log_least
    difference = to_mean * (noise.float() - noise_guess.float())
    gaussian = 0.5 * (
        log_variance - log_least - 1 + (log_least - log_variance).exp() + difference.square() * (-log_variance).exp()
    )
    first = per_sample(step == 0, clean)
    nats = torch.where(first, -_log_likelihood(clean.float(), difference, log_variance), gaussian)
    return nats.flatten(1).mean(1) / math.log(2.0)


def _log_likelihood(clean: Tensor, difference: Tensor, log_variance: Tensor) -> Tensor:
    """Return log of the mass of a Gaussian in the bin of each value; the outermost bins are open.

    Args:
        clean: x0.
        difference: Mean minus x0.
        log_variance: Of the Gaussian.
    """
    scale = (-0.5 * log_variance).exp()
    above = _normal_cdf(scale * (_BIN - difference))
    below = _normal_cdf(scale * (-_BIN - difference))
    inner = (above - below).clamp_min(_LEAST).log()
    outer = torch.where(clean > 0, (1 - below).clamp_min(_LEAST).log(), above.clamp_min(_LEAST).log())
    return torch.where(clean.abs() > 0.999, outer, inner)


def _normal_cdf(x: Tensor) -> Tensor:
    """Approximate the cumulative distribution of a unit Gaussian, as the published objective does."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
