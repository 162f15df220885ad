"""Objectives: the equations, and that sampling undoes them."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor

from evolvedirector.lightning_modules import DDPM, DDPMEpsilon, FlowMatching, Objective, ResolutionFlowMatching
from evolvedirector.lightning_modules.objectives.prediction_targets import (
    diffuse,
    diffusion_velocity,
    interpolate,
    linear_alphas_cumprod,
    scaled_linear_alphas_cumprod,
    velocity,
    velocity_from_clean,
    with_zero_terminal_snr,
)
from evolvedirector.lightning_modules.objectives.resolution_flow import at_resolution, shift_exponent
from evolvedirector.lightning_modules.sampling import Drawing, from_uint8, guide, initial_noise, sample, to_uint8
from evolvedirector.records.condition import Condition, Tokens

CLEAN = torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
NOISE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
TIME = torch.tensor([0.3, 0.8])
NO_TEXT = Condition({"text": Tokens(torch.zeros(2, 1, 1), torch.ones(2, 1, dtype=torch.bool))})


def test_path_runs_from_image_to_noise() -> None:
    assert torch.equal(interpolate(CLEAN, NOISE, torch.zeros(2)), CLEAN)
    assert torch.equal(interpolate(CLEAN, NOISE, torch.ones(2)), NOISE)


def test_velocity_from_the_true_image_is_the_velocity() -> None:
    found = velocity_from_clean(interpolate(CLEAN, NOISE, TIME), CLEAN, TIME, 1e-3)
    torch.testing.assert_close(found, velocity(CLEAN, NOISE))


def test_both_predictions_have_the_same_loss_for_the_same_guess() -> None:
    noisy = interpolate(CLEAN, NOISE, TIME)
    guess = CLEAN + 0.1
    by_x0 = FlowMatching(prediction="x0").loss(guess, CLEAN, NOISE, TIME)
    by_velocity = FlowMatching().loss(velocity_from_clean(noisy, guess, TIME, 1e-3), CLEAN, NOISE, TIME)
    torch.testing.assert_close(by_x0, by_velocity)


def test_x0_loss_is_bounded_near_the_image() -> None:
    loss = FlowMatching(prediction="x0", smallest_time=0.05).loss(CLEAN + 0.1, CLEAN, NOISE, torch.tensor([1e-9, 0.05]))
    torch.testing.assert_close(loss, torch.full((2,), 0.1**2 / 0.05**2))


def test_times_follow_their_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    times = torch.tensor([FlowMatching(time_mean=1.0).draw_time(generator) for _ in range(2000)])
    assert times.min() > 0 and times.max() < 1
    assert times.logit().mean() == pytest.approx(1.0, abs=0.1) and times.logit().std() == pytest.approx(1.0, abs=0.1)
    uniform = torch.tensor([FlowMatching(time_distribution="uniform").draw_time(generator) for _ in range(2000)])
    assert uniform.mean() == pytest.approx(0.5, abs=0.03)
    steps = {int(DDPMEpsilon(train_steps=3).draw_time(generator)) for _ in range(50)}
    assert steps == {0, 1, 2}


def test_diffusion_agrees_with_diffusers() -> None:
    reference = diffusers.DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    alphas = linear_alphas_cumprod(1000, 0.0001, 0.02)
    torch.testing.assert_close(alphas, reference.alphas_cumprod, rtol=1e-4, atol=1e-7)
    steps = torch.tensor([10, 900])
    torch.testing.assert_close(
        diffuse(CLEAN, NOISE, steps, alphas), reference.add_noise(CLEAN, NOISE, steps), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("steps", [4, 50])
@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_flow_sampling_with_a_perfect_prediction_lands_on_the_image(prediction: str, steps: int) -> None:
    def predict(noisy: Tensor, times: Tensor, condition: Condition) -> Tensor:
        clean = CLEAN.repeat(len(noisy) // 2, 1, 1, 1)
        return clean if prediction == "x0" else velocity_from_clean(noisy, clean, times / 1000, 1e-3)

    objective = FlowMatching(prediction=prediction)  # type: ignore[arg-type]
    found = sample(Drawing(predict, objective, NOISE, NO_TEXT, NO_TEXT, steps, guidance_scale=3.0))
    torch.testing.assert_close(found, CLEAN, rtol=1e-4, atol=1e-4)


# diffusers converts tensors in a way that numpy 2 deprecates
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
def test_noise_sampling_with_a_perfect_prediction_lands_on_the_image(sampler: str) -> None:
    alphas = linear_alphas_cumprod(1000, 0.0001, 0.02)

    def predict(noisy: Tensor, times: Tensor, condition: Condition) -> Tensor:
        alpha = alphas[times.long()].view(-1, 1, 1, 1)
        return (noisy - alpha.sqrt() * CLEAN) / (1 - alpha).sqrt()

    objective = DDPMEpsilon(sampler=sampler)  # type: ignore[arg-type]
    found = sample(Drawing(predict, objective, NOISE, NO_TEXT, None, 20, guidance_scale=1.0))
    torch.testing.assert_close(found, CLEAN, rtol=2e-2, atol=2e-2)


def test_guidance_extrapolates() -> None:
    assert float(guide(torch.tensor(2.0), torch.tensor(1.0), 3.0)) == 4.0


def test_noise_of_a_seed_does_not_depend_on_its_neighbours() -> None:
    assert torch.equal(initial_noise([5, 7], (3, 4, 4))[1], initial_noise([7], (3, 4, 4))[0])


def test_pixels_survive_the_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(from_uint8(pixels)), pixels)
    assert to_uint8(torch.tensor([[-3.0, 3.0]])).tolist() == [[0, 255]]


def test_objectives_fit_the_seam() -> None:
    assert all(isinstance(made, Objective) for made in (FlowMatching(), DDPMEpsilon(), DDPM()))


def test_the_shift_follows_the_number_of_tokens_as_in_the_stock_pipelines() -> None:
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    for tokens in (64, 256, 1024, 4096):
        assert shift_exponent(tokens, 256, 4096, 0.5, 1.15) == calculate_shift(tokens)


def test_larger_images_are_trained_and_drawn_with_more_noise() -> None:
    small, large = (at_resolution(ResolutionFlowMatching(), tokens) for tokens in (256, 4096))
    for distribution in ("logit_normal", "uniform"):
        first, second = (
            at_resolution(ResolutionFlowMatching(time_distribution=distribution), tokens)  # type: ignore[arg-type]
            for tokens in (256, 4096)
        )
        one, other = (
            torch.tensor(objective.draw_time(torch.Generator().manual_seed(3))).logit() for objective in (first, second)
        )
        assert float(other - one) == pytest.approx(1.15 - 0.5, abs=1e-4)  # logit(t') = logit(t) + mu
    assert (large.scheduler(4).timesteps[1:] > small.scheduler(4).timesteps[1:]).all()
    assert at_resolution(FlowMatching(shift=3.0), 4096) == FlowMatching(shift=3.0)
    with pytest.raises(ValueError, match=r"Write shift: 1\.0"):
        ResolutionFlowMatching(shift=3.0)


def test_a_family_joins_predictions_by_its_own_rule():
    """Guidance is the family's where it has one: its rule sees both predictions and the scale at every step."""
    seen = []

    def rule(conditional, unconditional, scale):
        seen.append(scale)
        return conditional

    def predict(noisy, times, condition):
        return torch.cat([torch.ones(len(NOISE), *NOISE.shape[1:]), torch.zeros_like(NOISE)])

    objective = FlowMatching(prediction="velocity")
    found = sample(Drawing(predict, objective, NOISE, NO_TEXT, NO_TEXT, 4, 3.0, rule))
    plain = sample(Drawing(lambda *_: torch.ones_like(NOISE), objective, NOISE, NO_TEXT, None, 4, 3.0))
    assert seen == [3.0] * 4
    assert torch.equal(found, plain)


def test_stable_diffusions_betas_agree_with_diffusers() -> None:
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    steps = torch.tensor([10, 999])
    for rescaled in (False, True):
        reference = diffusers.DDPMScheduler(**settings, rescale_betas_zero_snr=rescaled)
        alphas = scaled_linear_alphas_cumprod(1000, 0.00085, 0.012)
        alphas = with_zero_terminal_snr(alphas) if rescaled else alphas
        torch.testing.assert_close(alphas, reference.alphas_cumprod, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            diffusion_velocity(CLEAN, NOISE, steps, alphas), reference.get_velocity(CLEAN, NOISE, steps)
        )
        if rescaled:
            assert alphas[-1] == 0 and torch.equal(diffuse(CLEAN, NOISE, torch.tensor([999, 999]), alphas), NOISE)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpm_solver"])
@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_diffusion_sampling_with_a_perfect_prediction_lands_on_the_image(
    prediction: str, sampler: str, zero_terminal_snr: bool
) -> None:
    if zero_terminal_snr and prediction == "epsilon":
        with pytest.raises(ValueError, match="Write prediction: velocity, timestep_spacing: trailing"):
            DDPM(zero_terminal_snr=True)
        return
    spacing = "trailing" if zero_terminal_snr else "leading"
    objective = DDPM(prediction, sampler=sampler, timestep_spacing=spacing, zero_terminal_snr=zero_terminal_snr)  # type: ignore[arg-type]
    alphas = scaled_linear_alphas_cumprod(1000, 0.00085, 0.012)
    alphas = with_zero_terminal_snr(alphas) if zero_terminal_snr else alphas

    def predict(noisy: Tensor, times: Tensor, condition: Condition) -> Tensor:
        alpha = alphas[times.long()].view(-1, 1, 1, 1)
        if prediction == "velocity":  # of the noise that makes x_t from the image: v = (sqrt(a) x_t - x0) / sqrt(1 - a)
            return (alpha.sqrt() * noisy - CLEAN) / (1 - alpha).sqrt()
        return (noisy - alpha.sqrt() * CLEAN) / (1 - alpha).sqrt()

    found = sample(Drawing(predict, objective, NOISE, NO_TEXT, None, 20, guidance_scale=1.0))
    # DDIM ends, as published, at the noise of the first training step
    last = diffuse(CLEAN, NOISE, torch.tensor([0, 0]), alphas) if sampler == "ddim" else CLEAN
    torch.testing.assert_close(found, last, rtol=2e-2, atol=2e-2)


def test_min_snr_weighs_errors_of_the_image_alike_for_noise_and_velocity() -> None:
    # SNR here: about 1100 at step 0 (held at 5), .0047 at step 999
    steps, alphas = torch.tensor([0.0, 999.0]), scaled_linear_alphas_cumprod(1000, 0.00085, 0.012)
    alpha = alphas[steps.long()].view(-1, 1, 1, 1)
    error = 0.1  # of x0, at the same x_t: of e it is -sqrt(a / (1 - a)) times, of v -1 / sqrt(1 - a) times as large
    by_noise = DDPM(min_snr_gamma=5.0).loss(NOISE - error * (alpha / (1 - alpha)).sqrt(), CLEAN, NOISE, steps)
    target = diffusion_velocity(CLEAN, NOISE, steps.long(), alphas)
    by_velocity = DDPM("velocity", min_snr_gamma=5.0).loss(target - error / (1 - alpha).sqrt(), CLEAN, NOISE, steps)
    snr = (alpha / (1 - alpha)).flatten()
    torch.testing.assert_close(by_noise, error**2 * snr.clamp_max(5.0), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(by_velocity, by_noise, rtol=1e-3, atol=1e-8)
    plain = DDPM().loss(NOISE + 0.1, CLEAN, NOISE, steps)
    torch.testing.assert_close(plain, torch.full((2,), 0.01))
    with pytest.raises(ValueError, match=r"Write min_snr_gamma: 5\.0"):
        DDPM(min_snr_gamma=0.0)
