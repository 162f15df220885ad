"""Every random draw of a training step, from one generator per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.lightning_modules.objectives.objective import Objective

if TYPE_CHECKING:
    from jaxtyping import Int64


@dataclass(frozen=True, slots=True)
class Draws:
    """What chance decides about a batch, on the CPU."""

    dropped: list[bool]
    """Which samples lose their text (classifier-free guidance needs an unconditional model)."""
    time: Tensor
    """Float[batch], in the unit of the objective."""
    noise: Tensor
    """Float[batch, channel, height, width] of image or latent."""
    latent_noise: Tensor | None
    """Noise of the autoencoder's posterior, of the same shape; None in pixel space."""


def draw(
    sample_seeds: Int64[Tensor, " batch"],
    objective: Objective,
    condition_dropout: float,
    shape: tuple[int, int, int],
    latent: bool,
) -> Draws:
    """Draw for each sample from a CPU generator of its own seed, always in this order: dropout, time, noise, latent.

    A checkpoint holds no state of a random generator, and ranks must not share one: seeded by sample, the loss of a
    global batch is the same for every world size and after every resume.

    Args:
        sample_seeds: one seed per sample, unique to its slot in the training stream.
        objective: names the distribution of times.
        condition_dropout: probability of losing the text.
        shape: channel, height and width of image or latent.
        latent: whether an autoencoder needs noise, too.
    """
    generator = torch.Generator()
    count = len(sample_seeds)
    dropped: list[bool] = []
    times: list[float] = []
    noise = torch.empty(count, *shape)
    latent_noise = torch.empty_like(noise) if latent else None
    for index, seed in enumerate(sample_seeds.tolist()):
        generator.manual_seed(seed)
        dropped.append(float(torch.rand((), generator=generator)) < condition_dropout)
        times.append(objective.draw_time(generator))
        noise[index].normal_(generator=generator)
        if latent_noise is not None:
            latent_noise[index].normal_(generator=generator)
    return Draws(dropped, torch.tensor(times), noise, latent_noise)
