"""An image as grey values at a stated size, for rewards that measure pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

LEAST_SIZE_PX = 16
_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (Rec. ITU-R BT.601)."""


def checked_size(size_px: int) -> int:
    """Return a size at which pixels can be measured.

    Args:
        size_px: Of the shorter side.

    Raises:
        UserError: It is too small.
    """
    if size_px < LEAST_SIZE_PX:
        raise UserError(f"size_px is {size_px}. Allowed is {LEAST_SIZE_PX} or more. Write `size_px: 256`, say.")
    return size_px


def grey_picture(image: UInt8[Tensor, "3 h w"], size_px: int) -> Float[Tensor, "1 1 height width"]:
    """Return the luma of an image, 0 to 1, scaled so that its shorter side has a size.

    Args:
        image: RGB.
        size_px: Of the shorter side; a longer image is averaged down, a smaller one interpolated.
    """
    luma = torch.tensor(_LUMA, dtype=torch.float32).view(3, 1, 1)
    grey = (image.float() / 255.0 * luma).sum(0)[None, None]
    scale = size_px / min(image.shape[1:])
    size = (round(image.shape[1] * scale), round(image.shape[2] * scale))
    if size == tuple(image.shape[1:]):
        return grey
    return torch.nn.functional.interpolate(grey, size, mode="bilinear", antialias=True, align_corners=False)
