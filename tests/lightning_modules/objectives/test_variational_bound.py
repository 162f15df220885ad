"""The bound that trains a learned variance: against Gaussians written out, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from evolvedirector.lightning_modules import DDPMEpsilon
from evolvedirector.lightning_modules.objectives.objective import LearnsVariance

CLEAN = torch.linspace(-1.4, 1.4, 2 * 4 * 3 * 5).view(2, 4, 3, 5)
NOISE = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
GUESS = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(1)) * 0.5
PUBLISHED = DDPMEpsilon(variational_weight=0.001)


def bits_by_hand(prediction: Tensor, clean: Tensor, noise: Tensor, step: int) -> float:
    """Return the term of one sample as the papers write it: two Gaussians over x_{t-1}, in double precision."""
    clean, noise = clean.double(), noise.double()
    noise_guess, variance_guess = prediction.double().chunk(2)
    betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
    alphas = (1 - betas).cumprod(0)
    beta, alpha, before = betas[step], alphas[step], alphas[step - 1] if step else torch.tensor(1.0).double()
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def mean(image: Tensor) -> Tensor:
        of_image = before.sqrt() * beta / (1 - alpha)
        return of_image * image + (1 - beta).sqrt() * (1 - before) / (1 - alpha) * noisy

    guess = (noisy - (1 - alpha).sqrt() * noise_guess) / alpha.sqrt()
    least = (betas[1:] * (1 - alphas[:-1]) / (1 - alphas[1:]))[max(step - 1, 0)]
    share = (variance_guess + 1) / 2
    model = Normal(mean(guess), (share * beta.log() + (1 - share) * least.log()).div(2).exp())
    if step:
        nats = kl_divergence(Normal(mean(clean), least.sqrt()), model)
    else:
        above = torch.where(clean > 0.999, 1.0, model.cdf(clean + 1 / 255))
        below = torch.where(clean < -0.999, 0.0, model.cdf(clean - 1 / 255))
        nats = -(above - below).clamp_min(1e-12).log()
    return float(nats.mean() / math.log(2))


@pytest.mark.parametrize("step", [1, 17, 500, 999])
def test_the_loss_is_the_squared_error_and_one_term_of_the_bound(step: int) -> None:
    found = PUBLISHED.loss(GUESS, CLEAN, NOISE, torch.full((2,), float(step)))
    for row in range(2):
        square = float((GUESS[row, :4] - NOISE[row]).square().mean())
        expected = square + bits_by_hand(GUESS[row], CLEAN[row], NOISE[row], step)
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)


def test_the_last_step_back_counts_grey_levels() -> None:
    near = torch.cat([NOISE + 0.3 * GUESS[:, :4], GUESS[:, 4:]], dim=1)  # a good guess, whose bins are not empty
    found = PUBLISHED.loss(near, CLEAN, NOISE, torch.zeros(2))
    for row in range(2):
        square = float((near[row, :4] - NOISE[row]).square().mean())
        expected = square + bits_by_hand(near[row], CLEAN[row], NOISE[row], 0)
        assert float(found[row]) == pytest.approx(expected, rel=5e-3)  # the published cumulative distribution is rough


def test_the_bound_moves_the_variance_alone() -> None:
    guess = GUESS.clone().requires_grad_()
    PUBLISHED.loss(guess, CLEAN, NOISE, torch.tensor([0.0, 500.0])).sum().backward()
    alone = GUESS[:, :4].clone().requires_grad_()
    DDPMEpsilon().loss(alone, CLEAN, NOISE, torch.tensor([0.0, 500.0])).sum().backward()
    assert guess.grad is not None and torch.equal(guess.grad[:, :4], alone.grad)
    assert guess.grad[:, 4:].abs().min() > 0


def test_the_right_variance_has_the_least_loss() -> None:
    exact = torch.cat([NOISE, torch.full_like(NOISE, -1.0)], dim=1)  # no error in the mean: the smallest variance
    times = torch.full((2,), 300.0)
    assert PUBLISHED.loss(exact, CLEAN, NOISE, times).abs().max() < 1e-6
    exact[:, 4:] = 0.0
    assert (PUBLISHED.loss(exact, CLEAN, NOISE, times) > 1e-8).all()


def test_without_a_weight_nothing_is_learned_of_the_variance() -> None:
    assert isinstance(PUBLISHED, LearnsVariance) and PUBLISHED.learns_variance
    assert not DDPMEpsilon().learns_variance
    doubled = DDPMEpsilon(variational_weight=0.002).loss(GUESS, CLEAN, NOISE, torch.full((2,), 500.0))
    once = PUBLISHED.loss(GUESS, CLEAN, NOISE, torch.full((2,), 500.0))
    square = DDPMEpsilon().loss(GUESS[:, :4], CLEAN, NOISE, torch.full((2,), 500.0))
    torch.testing.assert_close(doubled - square, 2 * (once - square))
