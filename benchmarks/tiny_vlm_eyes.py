"""The eyes of the tiny vision-language model: its vision tower is taught patch by patch before it is asked anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.tiny_vlm_model import PATCH_PX
from benchmarks.tiny_vlm_pictures import IMAGE_SIZE_PX, WORLD, Picture
from evolvedirector.worlds.shapes.reading import UNKNOWN

SIDE = IMAGE_SIZE_PX // PATCH_PX
"""Patches of a row, and of a column."""
CENTRE_WEIGHT = 4.0
"""Of the few patches that hold a centre, against the many that do not."""


def to_pixel_values(pictures: Sequence[Picture]) -> Tensor:
    """Return picture x 3 x height x width from -1 to 1, as the processor makes them."""
    pixels = np.stack([picture.pixels for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


class PatchHeads(nn.Module):
    """Say for each patch which colour and shape cover it, whether an object's centre lies in it, and where it lies.

    Used in training only: an exact answer per patch teaches a vision tower far sooner than one answer per picture.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # word or nothing, and one for what the reader cannot name
        self.sizes = (len(WORLD.shapes) + 2, len(WORLD.colours) + 2, 2, SIDE, SIDE)
        self.linear = nn.Linear(width, sum(self.sizes))

    def loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy; `states`: picture x patch x width, `targets`: picture x patch x 3."""
        logits = self.linear(states).flatten(0, 1).split(self.sizes, dim=-1)
        weight = torch.tensor([1.0, CENTRE_WEIGHT])
        shape, colour, centre = (targets[..., index].flatten() for index in range(3))
        # Without these a patch's state forgets its place, and questions of place are answered last.
        place = torch.arange(SIDE * SIDE).repeat(len(states))
        return (
            F.cross_entropy(logits[0], shape)
            + F.cross_entropy(logits[1], colour)
            + F.cross_entropy(logits[2], centre, weight=weight)
            + F.cross_entropy(logits[3], place // SIDE)
            + F.cross_entropy(logits[4], place % SIDE)
        )


def patch_targets(pictures: Sequence[Picture]) -> Tensor:
    """Return picture x patch x (shape, colour, centre) from the readings."""
    grid = (np.arange(SIDE) + 0.5) / SIDE
    x, y = np.meshgrid(grid, grid)
    targets = np.zeros((len(pictures), SIDE, SIDE, 3), dtype=np.int64)
    for target, picture in zip(targets, pictures, strict=True):
        for seen in picture.reading.objects:
            radius = math.sqrt(seen.area / math.pi)
            row, column = (min(SIDE - 1, max(0, int(v * SIDE))) for v in (seen.y, seen.x))
            covered = (x - seen.x) ** 2 + (y - seen.y) ** 2 <= radius**2
            covered[row, column] = True
            shape = len(WORLD.shapes) + 1 if seen.shape == UNKNOWN else WORLD.shapes.index(seen.shape) + 1
            colour = len(WORLD.colours) + 1 if seen.colour == UNKNOWN else WORLD.colours.index(seen.colour) + 1
            target[covered, 0], target[covered, 1] = shape, colour
            target[row, column, 2] = 1
    return torch.from_numpy(targets).flatten(1, 2)
