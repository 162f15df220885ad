"""The seam behind which every encoder of reference pictures stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.text_encoders.text_encoder import FrozenPart

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8


@dataclass(frozen=True, slots=True, eq=False)
class PatchFeatures:
    """One vector for each patch of a picture, row by row.

    Args:
        values: Float[batch, row * column, dimension].
        rows: Patches above each other.
        columns: Patches beside each other.
    """

    values: Tensor
    rows: int
    columns: int

    def coordinates(self) -> Float[Tensor, "token 2"]:
        """Return the centre of each patch, x then y, as shares of the picture's width and height."""
        device = self.values.device
        x = (torch.arange(self.columns, device=device) + 0.5) / self.columns
        y = (torch.arange(self.rows, device=device) + 0.5) / self.rows
        return torch.stack([x.repeat(self.rows), y.repeat_interleave(self.columns)], dim=1)


@runtime_checkable
class FeatureEncoder(FrozenPart, Protocol):
    """Turn pictures of a subject into one vector per patch. It is never trained, and no checkpoint holds it."""

    @property
    def dimension(self) -> int:
        """Dimension of a vector."""
        ...

    @property
    def image_size_px(self) -> int:
        """Side of the squares that it looks at; pictures of other sizes are scaled to it."""
        ...

    def features(self, images: Tensor) -> PatchFeatures:
        """Return the patches of uint8 pictures [batch, 3, height, width]; on the device of `to`."""
        ...


def check_dimension(encoder: FeatureEncoder, values: Tensor) -> None:
    """Refuse features of another dimension than their encoder says: parts that read them are built for that.

    Args:
        encoder: Of the features.
        values: Float[..., dimension].

    Raises:
        UserError: They differ.
    """
    if values.shape[-1] != encoder.dimension:
        raise UserError(
            f"{type(encoder).__name__} gives features of dimension {values.shape[-1]}, but says {encoder.dimension}. "
            f"Both must be the same. Write dimension: {values.shape[-1]}."
        )


def scaled(images: UInt8[Tensor, "batch 3 height width"], side_px: int) -> Float[Tensor, "batch 3 side side"]:
    """Return pictures as squares of one side, 0 to 1.

    Args:
        images: Of one size.
        side_px: Wanted.
    """
    values: Any = images.float() / 255
    if tuple(images.shape[-2:]) == (side_px, side_px):
        return values
    return functional.interpolate(values, (side_px, side_px), mode="bilinear", antialias=True, align_corners=False)
