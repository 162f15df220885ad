"""The training loss on single samples at fixed noise: what draws by loss are made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evolvedirector.lightning_modules.objectives.objective import Objective
from evolvedirector.lightning_modules.sampling import Predict, initial_noise
from evolvedirector.records import LossRequest
from evolvedirector.records.condition import Condition
from evolvedirector.store.files import decode_file
from evolvedirector.store.images import fit_square, sniff_format

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

_TIMES = 512
"""Draws that stand for the distribution of an objective's times."""


def noise_levels(objective: Objective, count: int) -> list[float]:
    """Return the medians of `count` equal parts of the times that an objective trains at, from the least on.

    The mean loss at these levels stands for the mean loss of training, whatever the distribution of times: each level
    is as likely as the others.

    Args:
        objective: Draws the times.
        count: How many levels.
    """
    generator = torch.Generator().manual_seed(0)
    times = sorted(objective.draw_time(generator) for _ in range(_TIMES))
    return [times[int((level + 0.5) / count * _TIMES)] for level in range(count)]


def mean_losses(
    predict: Predict,
    objective: Objective,
    clean: Float[Tensor, "batch channel height width"],
    condition: Condition,
    noise_seeds: Sequence[Sequence[int]],
) -> Float[Tensor, " batch"]:
    """Return (1 / n) sum_k loss(x, e_k, t_k) of each sample x, at levels t_k with noise e_k of its own fixed seeds.

    Args:
        predict: The network with everything but its input bound.
        objective: Of the training.
        clean: Images or latents.
        condition: What the network reads for each.
        noise_seeds: By sample, one for each of n levels; all samples have as many.
    """
    levels = noise_levels(objective, len(noise_seeds[0]))
    total = torch.zeros(len(clean))
    for time, seeds in zip(levels, zip(*noise_seeds, strict=True), strict=True):
        noise = initial_noise(list(seeds), clean.shape[1:]).to(clean.device)
        times = torch.full((len(clean),), time, device=clean.device)
        noisy = objective.corrupt(clean, noise, times)
        prediction = predict(noisy, objective.transformer_time(times), condition).float()
        total += objective.loss(prediction, clean, noise, times).float().cpu()
    return total / len(levels)


def images_of(requests: Sequence[LossRequest], size_px: int) -> UInt8[Tensor, "batch 3 height width"]:
    """Decode the images of samples as the datamodule does for training: scaled and cropped to squares.

    Args:
        requests: With encoded images.
        size_px: Side of the squares.
    """
    decoded = [fit_square(decode_file(r.image, sniff_format(r.image), "image"), size_px) for r in requests]
    return torch.from_numpy(np.ascontiguousarray(np.stack(decoded).transpose(0, 3, 1, 2)))
