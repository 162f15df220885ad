"""Outside of an edit's mask the picture before stays as it is, to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.lightning_modules.role_files import as_tensor, file_of
from evolvedirector.records import ImageRequest
from evolvedirector.records.subject_roles import MASK, SOURCE

if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8


def composite(
    drawn: UInt8[Tensor, "3 height width"], source: UInt8[Tensor, "3 height width"], anew: Bool[Tensor, "height width"]
) -> UInt8[Tensor, "3 height width"]:
    """Return the drawn picture where it is drawn anew, and the source elsewhere.

    Args:
        drawn: By the network.
        source: The picture before.
        anew: Where it is drawn anew.
    """
    return torch.where(anew, drawn, source)


def error_outside(
    drawn: UInt8[Tensor, "3 height width"], source: UInt8[Tensor, "3 height width"], anew: Bool[Tensor, "height width"]
) -> float:
    """Return the mean of |drawn - source| outside of what is drawn anew, of 255; NaN where there is no outside.

    Args:
        drawn: By the network, before it is composited.
        source: The picture before.
        anew: Where it is drawn anew.
    """
    difference = (drawn.float() - source.float()).abs().mean(0)
    return float(difference[~anew].mean())


def composited(drawn: UInt8[Tensor, "3 height width"], request: ImageRequest) -> tuple[Tensor, float | None]:
    """Return what a request gets of a drawn picture, and by how much the network itself changed the outside.

    Args:
        drawn: By the network.
        request: What was asked for; without a mask it gets the picture as it is, and None.
    """
    if MASK not in request.files:
        return drawn, None
    mask, source = (as_tensor(file_of(request, role), request.files[role].media_type, None) for role in (MASK, SOURCE))
    anew = mask[0] >= 128  # 0...255, half is drawn anew, as in `surroundings`
    return composite(drawn, source, anew), error_outside(drawn, source, anew)
