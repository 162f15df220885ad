"""Images as tokens: squares of latent pixels side by side, and where each stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from evolvedirector.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

PATCH = 2
"""Side of a square, in latent pixels."""


def packed(latents: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch token packed"]:
    """Make tokens of squares of 2 x 2 latent pixels, row by row, with channels in the order channel, row, column."""
    return pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpacked(
    tokens: Float[Tensor, "batch token packed"], height: int, width: int
) -> Float[Tensor, "batch channel double_height double_width"]:
    """Undo `packed`.

    Args:
        tokens: Height x width of them.
        height: In squares.
        width: Likewise.
    """
    return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height, width)), PATCH)


def places(sides: Sequence[int], device: torch.device) -> Int64[Tensor, "token coordinate"]:
    """Return the coordinates of each token, the last one running fastest.

    Args:
        sides: How many values each coordinate has, from 0 on.
        device: Where they are wanted.
    """
    return torch.cartesian_prod(*[torch.arange(side, device=device) for side in sides])


def check_axes(axes_dims_rope: Sequence[int], head_dim: int, coordinates: int) -> None:
    """Refuse a rotary embedding that does not fill the channels of a head, or leaves out a coordinate.

    Args:
        axes_dims_rope: Channels per coordinate.
        head_dim: Channels of a head.
        coordinates: Of a place; with fewer parts the network runs, and never reads the last ones.

    Raises:
        UserError: It does, or a part is odd.
    """
    parts = list(axes_dims_rope)
    if len(parts) != coordinates or sum(parts) != head_dim or any(part % 2 for part in parts):
        raise UserError(
            f"axes_dims_rope is {parts}, sum {sum(parts)}. It must have {coordinates} parts, all even, together "
            f"head_dim, which is {head_dim}. Change one of the two."
        )
