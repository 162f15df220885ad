"""Losses of single samples: at fixed noise, the same whatever stands beside them, and lower once they are learned."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evolvedirector.evolution import MeasuresLoss
from evolvedirector.lightning_modules import DDPMEpsilon, FlowMatching, ResolutionFlowMatching
from evolvedirector.lightning_modules.sample_losses import images_of, noise_levels
from evolvedirector.records import FileRef, LossRequest
from tests.lightning_modules.test_text_to_image import SIDE, batch_of, fit, student
from tests.nets import made


def requests_of(side_px: int = SIDE) -> list[LossRequest]:
    batch = batch_of()
    found = []
    for number, (image, prompt) in enumerate(zip(batch["image"], batch["prompt"], strict=True)):
        buffer = io.BytesIO()
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((side_px, side_px)).save(buffer, "PNG")
        seeds = tuple(100 * number + level for level in range(4))
        found.append(LossRequest(f"s{number}", buffer.getvalue(), prompt, seeds))
    return found


@pytest.mark.parametrize("objective", [FlowMatching(), DDPMEpsilon(), ResolutionFlowMatching(), None])
def test_a_loss_follows_from_the_sample_alone(objective: Any) -> None:
    module = student(objective=objective)
    assert isinstance(module, MeasuresLoss)
    module.configure_model()
    made.perturb(module.named_parameters())  # a fresh network is silent
    requests = requests_of()
    losses = module.sample_losses(requests)
    assert len(set(losses)) == 8 and all(loss > 0 for loss in losses)
    assert module.sample_losses(requests) == losses
    assert module.sample_losses(requests[::-1]) == pytest.approx(losses[::-1], rel=1e-5)
    assert module.sample_losses(requests[2:3]) == pytest.approx(losses[2:3], rel=1e-5)
    (other,) = module.sample_losses([replace(requests[2], noise_seeds=(7, 8, 9, 10))])
    assert other != losses[2]


def test_it_is_the_mean_of_the_training_loss_at_the_levels() -> None:
    module = student()
    requests = requests_of()[:4]
    found = module.sample_losses(requests)
    clean = images_of(requests, SIDE).float() / 127.5 - 1
    states = module.text_states.get([r.prompt for r in requests], module.device)
    condition = module.student().condition(states, *_size_and_extras())
    expected = torch.zeros(4)
    with torch.no_grad():
        for place, time in enumerate(noise_levels(module.objective, 4)):
            rows = [torch.randn(3, SIDE, SIDE, generator=_seeded(r.noise_seeds[place])) for r in requests]
            noise, times = torch.stack(rows), torch.full((4,), time)
            noisy = module.objective.corrupt(clean, noise, times)
            prediction = module.student().predict(noisy, module.objective.transformer_time(times), condition)
            expected += module.objective.loss(prediction, clean, noise, times) / 4
    assert found == pytest.approx(expected.tolist(), rel=1e-4)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _size_and_extras() -> tuple[Any, Any]:
    from evolvedirector.records.condition import Extras, Size

    return Size(SIDE, SIDE), Extras()


def test_what_was_learned_has_less_loss_and_training_is_left_as_it_was() -> None:
    module = student()
    before = module.sample_losses(requests_of())
    fit(module, 60)
    module.train()
    after = module.sample_losses(requests_of())
    assert sum(after) < 0.5 * sum(before)
    assert module.training and all(p.grad is None or p.requires_grad for p in module.parameters())


def test_levels_split_the_times_of_training_into_equal_parts() -> None:
    assert noise_levels(FlowMatching(time_distribution="uniform"), 4) == pytest.approx(
        [1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=0.05
    )
    skewed = noise_levels(FlowMatching(time_mean=2.0), 4)
    assert skewed == sorted(skewed) and skewed[0] > 0.6
    steps = noise_levels(DDPMEpsilon(), 3)
    assert steps == [int(step) for step in steps] and 0 <= steps[0] < steps[1] < steps[2] < 1000


def test_images_and_files_of_another_size_are_fitted_as_for_training() -> None:
    (large,) = requests_of(3 * SIDE)[:1]
    assert images_of([large], SIDE).shape == (1, 3, SIDE, SIDE)
    from evolvedirector.lightning_modules.role_files import roles_of_requests

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((3 * SIDE, 3 * SIDE), np.uint8)).save(buffer, "PNG")
    with_mask = replace(large, files={"mask": FileRef.of(buffer.getvalue(), "image/png", 3 * SIDE, 3 * SIDE)})
    found = roles_of_requests([with_mask], ["mask"], torch.device("cpu"), SIDE)
    assert found["mask"].shape == (1, 1, SIDE, SIDE)


def test_a_latent_student_measures_without_chance(tmp_path: Any) -> None:
    module = made.student("velocity, latent", made.tiny_autoencoder(tmp_path / "vae"))
    requests = requests_of(module.image_size_px)[:3]
    assert module.sample_losses(requests) == module.sample_losses(requests)
