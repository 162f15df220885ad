"""Draw images from noise with a diffusers scheduler and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evolvedirector.errors import RunError
from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Condition, join

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

Predict = Callable[[Tensor, Tensor, Condition], Tensor]
"""(noisy images, times on the scale 0...1000, condition) -> prediction."""
Guide = Callable[[Tensor, Tensor, float], Tensor]


def guide(
    conditional: Float[Tensor, "batch ..."], unconditional: Float[Tensor, "batch ..."], scale: float
) -> Float[Tensor, "batch ..."]:
    """Return u + s (c - u), classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6 with s = 1 + w)."""
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What images are drawn from.

    Args:
        predict: The network with everything but its input bound.
        objective: Names the scheduler and what the prediction means.
        noise: Float[batch, channel, height, width], the unit Gaussian start.
        condition: What the network reads for each image.
        null: What it reads without a prompt, one row per image; None where there is no guidance. Where several things
            can be left out, rows of all images without the one, behind them those without the other, and so on.
        steps: Scheduler steps.
        guidance_scale: Of the predictions with and without prompt; read only where there is a `null`.
        guide: Joins both: (with prompt, the rows of `null`, scale) -> prediction.
    """

    predict: Predict
    objective: Objective
    noise: Tensor
    condition: Condition
    null: Condition | None
    steps: int
    guidance_scale: float
    guide: Guide = guide


def initial_noise(seeds: list[int], shape: tuple[int, ...]) -> Float[Tensor, "batch ..."]:
    """Draw unit Gaussian noise, each sample from a CPU generator of its own seed: the same on every machine."""
    generator = torch.Generator()
    noise = torch.empty(len(seeds), *shape)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    return noise


def sample(drawing: Drawing) -> Float[Tensor, "batch channel height width"]:
    """Integrate from noise to clean images; guided and unguided predictions share one forward pass.

    Args:
        drawing: What the images are drawn from.
    """
    objective, noisy = drawing.objective, drawing.noise
    scheduler = objective.scheduler(drawing.steps)  # a fresh one: schedulers carry state from step to step
    guided = drawing.null is not None
    condition = drawing.condition if drawing.null is None else join([drawing.condition, drawing.null])
    copies = 1 if drawing.null is None else 1 + drawing.null.count // len(noisy)
    if hasattr(scheduler, "init_noise_sigma"):
        noisy = noisy * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        # Euler over discrete diffusion keeps x0 + sigma e, and shows the network that over sqrt(sigma^2 + 1)
        shown = scheduler.scale_model_input(noisy, time) if hasattr(scheduler, "scale_model_input") else noisy
        doubled = shown.repeat(copies, 1, 1, 1)
        times = time.to(device=noisy.device, dtype=torch.float32).expand(len(doubled))
        prediction = drawing.predict(doubled, times, condition).float()
        if guided:
            conditional, unconditional = prediction[: len(noisy)], prediction[len(noisy) :]
            prediction = drawing.guide(conditional, unconditional, drawing.guidance_scale)
        model_output = objective.scheduler_input(prediction, noisy, times[:1])
        noisy = scheduler.step(model_output, time, noisy, return_dict=False)[0]
    return noisy


def chunks_of_one_size(
    requests: Sequence[ImageRequest], chunk_size: int
) -> Iterator[tuple[list[int], list[ImageRequest]]]:
    """Yield places and requests of images of one size with files of one size, the last chunk of each padded.

    Chunks have one length so that an image does not depend on how many were asked for.

    Args:
        requests: In any sizes.
        chunk_size: Requests of a chunk.
    """
    together: dict[tuple[Any, ...], list[int]] = {}
    for index, request in enumerate(requests):
        files = [(role, file.width_px, file.height_px) for role, file in sorted(request.files.items())]
        together.setdefault((request.height_px, request.width_px, *files), []).append(index)
    for alike in together.values():
        for start in range(0, len(alike), chunk_size):
            places = alike[start : start + chunk_size]
            yield places, [requests[index] for index in places + places[-1:] * (chunk_size - len(places))]


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


def check_finite(images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]) -> None:
    """Refuse images that are not finite.

    Args:
        images: As they were drawn.
        prompts: Of each.

    Raises:
        RunError: One is not; with its prompt.
    """
    for prompt, is_finite in zip(prompts, images.flatten(1).isfinite().all(1).tolist(), strict=True):
        if not is_finite:
            raise RunError(
                f"The student drew numbers that are not finite for {prompt!r}. Its weights are not finite, or too "
                "large for this precision. Go on from an earlier checkpoint with a lower learning rate, or write "
                "precision: bf16-mixed in place of 16-mixed."
            )


def to_uint8(image: Float[Tensor, "batch 3 height width"]) -> UInt8[Tensor, "batch 3 height width"]:
    """Map [-1, 1] to 0...255."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(image: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Map 0...255 to [-1, 1]."""
    return image.float() / 127.5 - 1
