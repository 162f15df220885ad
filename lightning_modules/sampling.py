"""Draw images from noise with a diffusers scheduler and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evolvedirector.lightning_modules.objectives.objective import Objective

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(noisy images, times on the scale 0...1000, text states, text mask) -> prediction."""


def initial_noise(seeds: list[int], shape: tuple[int, ...]) -> Float[Tensor, "batch ..."]:
    """Draw unit Gaussian noise, each sample from a CPU generator of its own seed: the same on every machine."""
    generator = torch.Generator()
    noise = torch.empty(len(seeds), *shape)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    return noise


def guide(
    conditional: Float[Tensor, "batch ..."], unconditional: Float[Tensor, "batch ..."], scale: float
) -> Float[Tensor, "batch ..."]:
    """Return u + s (c - u), classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6 with s = 1 + w)."""
    return unconditional + scale * (conditional - unconditional)


def sample(
    predict: Predict,
    objective: Objective,
    noise: Float[Tensor, "batch channel height width"],
    states: Float[Tensor, "batch token dimension"],
    mask: Bool[Tensor, "batch token"],
    null_states: Float[Tensor, "1 token dimension"],
    null_mask: Bool[Tensor, "1 token"],
    steps: int,
    guidance_scale: float,
) -> Float[Tensor, "batch channel height width"]:
    """Integrate from noise to clean images; guided and unguided predictions share one forward pass.

    Args:
        predict: the transformer with everything but its input bound.
        objective: names the scheduler and what the prediction means.
        noise: unit Gaussian start.
        states: text states of the prompts.
        mask: which of them are text.
        null_states: text states of the empty prompt.
        null_mask: which of them are text.
        steps: scheduler steps.
        guidance_scale: 1 asks for no guidance and halves the work.
    """
    scheduler = objective.scheduler(steps)  # a fresh one: schedulers carry state from step to step
    guided = guidance_scale != 1
    if guided:
        states = torch.cat([states, null_states.expand_as(states)])
        mask = torch.cat([mask, null_mask.expand_as(mask)])
    noisy = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
    for time in scheduler.timesteps:
        doubled = torch.cat([noisy, noisy]) if guided else noisy
        times = time.to(device=noisy.device, dtype=torch.float32).expand(len(doubled))
        prediction = predict(doubled, times, states, mask).float()
        if guided:
            conditional, unconditional = prediction.chunk(2)
            prediction = guide(conditional, unconditional, guidance_scale)
        model_output = objective.scheduler_input(prediction, noisy, times[:1])
        noisy = scheduler.step(model_output, time, noisy, return_dict=False)[0]
    return noisy


@contextmanager
def drawing(module: nn.Module) -> Iterator[None]:
    """Evaluate a module without gradients, and put every part back into its own mode after.

    Not by inference mode: a sharded module could not train after it.

    Args:
        module: The whole model.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def to_uint8(image: Float[Tensor, "batch 3 height width"]) -> UInt8[Tensor, "batch 3 height width"]:
    """Map [-1, 1] to 0...255."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(image: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Map 0...255 to [-1, 1]."""
    return image.float() / 127.5 - 1
