"""Where the tokens of a reference stand on the canvas: boxes, coordinates and their rotation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

HIGHEST_TURNS = 8.0
"""Full turns over the canvas of the fastest pair of channels."""
LOWEST_TURNS = 0.25


def box_of_mask(mask: Bool[Tensor, "batch height width"]) -> Float[Tensor, "batch 4"]:
    """Return left, top, right and bottom of what a mask shows, as shares of its sides; of an empty one, the whole.

    Args:
        mask: True on the subject.
    """
    filled = mask | ~mask.flatten(1).any(1)[:, None, None]
    sides = []
    for axis in (1, 2):  # over rows: which columns hold something; then the other way round
        held = filled.any(axis).float()
        length = held.shape[1]
        first = held.argmax(1)
        last = length - held.flip(1).argmax(1)
        sides.append((first / length, last / length))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1)


def within(
    coordinates: Float[Tensor, "batch token 2"], box: Float[Tensor, "batch 4"]
) -> Float[Tensor, "batch token 2"]:
    """Return (c - (left, top)) / (width, height): coordinates as shares of a box.

    Args:
        coordinates: Of a picture.
        box: Inside that picture.
    """
    corner, size = box[:, None, :2], (box[:, None, 2:] - box[:, None, :2]).clamp_min(1e-3)
    return (coordinates - corner) / size


def onto(coordinates: Float[Tensor, "batch token 2"], box: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch token 2"]:
    """Return (left, top) + c (width, height): shares of a box as coordinates of its canvas.

    Args:
        coordinates: Shares of the box.
        box: On the canvas.
    """
    return box[:, None, :2] + coordinates * (box[:, None, 2:] - box[:, None, :2])


def grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of tokens that cover a canvas, each side divided by one number and rounded up.

    Args:
        tokens: How many there are.
        height: Of the canvas, in any unit.
        width: Likewise.
    """
    sizes = ((-(-height // part), -(-width // part)) for part in range(1, max(height, width) + 1))
    return next(size for size in sizes if size[0] * size[1] <= tokens)


def grid_coordinates(rows: int, columns: int, device: torch.device) -> Float[Tensor, "token 2"]:
    """Return the centres of a grid's cells, x then y, as shares of the canvas.

    Args:
        rows: Of cells.
        columns: Of cells.
        device: Where they are wanted.
    """
    x = ((torch.arange(columns, device=device) + 0.5) / columns).repeat(rows)
    y = ((torch.arange(rows, device=device) + 0.5) / rows).repeat_interleave(columns)
    return torch.stack([x, y], dim=1)


def rotate(values: Float[Tensor, "batch head token channel"], places: Float[Tensor, "batch token 2"]) -> Tensor:
    """Turn pairs of channels by angles that grow with the place: rotary positions (arXiv:2104.09864, eq. 16) in 2-D.

    The first half of the channels is turned by x, the second by y, so that <rotate(q, p), rotate(k, r)> depends on
    p - r alone. Frequencies are geometric, from a quarter of a turn to `HIGHEST_TURNS` over the canvas.

    Args:
        values: Queries or keys; channels are a multiple of 4.
        places: Of each token, as shares of the canvas.
    """
    count = values.shape[-1] // 4
    powers = torch.linspace(0, 1, count, device=values.device)
    turns = LOWEST_TURNS * (HIGHEST_TURNS / LOWEST_TURNS) ** powers
    angles = (2 * math.pi * places[:, None, :, :, None] * turns).flatten(-2)  # [batch, 1, token, channel / 2]
    cosine, sine = angles.cos(), angles.sin()
    even, odd = values[..., 0::2].float(), values[..., 1::2].float()
    turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
    return turned.flatten(-2).to(values.dtype)


def box_weights(
    box: Float[Tensor, "batch 4"], height: int, width: int, weight: float
) -> Float[Tensor, "batch 1 height width"]:
    """Return `weight` inside of each box and 1 outside, over their mean; 1 everywhere for a box that is not known.

    Args:
        box: Left, top, right, bottom as shares of the canvas; NaN is not known.
        height: Of the canvas in pixels.
        width: Likewise.
        weight: Of the inside over the outside.
    """
    centres = grid_coordinates(height, width, box.device).view(1, height, width, 2)
    low, high = box[:, None, None, :2], box[:, None, None, 2:]
    inside = ((centres >= low) & (centres <= high)).all(-1)[:, None].float()  # comparisons with NaN are false
    weights = 1 + (weight - 1) * inside
    return weights / weights.mean((1, 2, 3), keepdim=True)
