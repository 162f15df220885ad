"""The seam behind which every codec stands, and how raw latents become what is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from evolvedirector.errors import UserError
from evolvedirector.records.condition import Size

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What an encoder says about an image: raw, before scale and shift, so that it can be kept and sampled again.

    Args:
        mean: Float[batch, channel, height, width].
        deviation: Likewise; None where the encoder is certain.
    """

    mean: Tensor
    deviation: Tensor | None = None

    def sample(self, noise: Float[Tensor, "batch channel height width"] | None) -> Tensor:
        """Return mean + deviation e.

        Args:
            noise: e; None takes the mean.
        """
        return self.mean if self.deviation is None or noise is None else self.mean + self.deviation * noise


@dataclass(frozen=True, slots=True)
class LatentScale:
    """Bring raw latents to about zero mean and unit variance: z = s ((pack(raw) - m) / d - h).

    Args:
        scale: s.
        shift: h, one for all channels (SD3, FLUX.1, Z-Image).
        means: m, per packed channel (Qwen-Image, FLUX.2); None is zero.
        deviations: d, likewise; None is one.
        packing: Side of the square of neighbours that becomes channels, in the order channel, row, column (FLUX.2: 2).
    """

    scale: float = 1.0
    shift: float = 0.0
    means: tuple[float, ...] | Tensor | None = None
    deviations: tuple[float, ...] | Tensor | None = None
    packing: int = 1

    def normalise(
        self, raw: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch packed_channel packed_height packed_width"]:
        """Turn raw latents into what is trained on."""
        latents = raw if self.packing == 1 else pixel_unshuffle(raw, self.packing)
        if self.means is not None:
            latents = latents - _per_channel(self.means, latents)
        if self.deviations is not None:
            latents = latents / _per_channel(self.deviations, latents)
        return (latents - self.shift) * self.scale

    def restore(
        self, latents: Float[Tensor, "batch packed_channel packed_height packed_width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Turn them back."""
        raw = latents / self.scale + self.shift
        if self.deviations is not None:
            raw = raw * _per_channel(self.deviations, raw)
        if self.means is not None:
            raw = raw + _per_channel(self.means, raw)
        return raw if self.packing == 1 else pixel_shuffle(raw, self.packing)


def _per_channel(values: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


@runtime_checkable
class Codec(Protocol):
    """Map images to the latents that are trained on, and back. Frozen and no `nn.Module`, like a text encoder."""

    @property
    def fingerprint(self) -> str:
        """Name the model, its revision and its scale; equal fingerprints give equal latents."""
        ...

    @property
    def channels(self) -> int:
        """Channels of a latent as it is trained on."""
        ...

    @property
    def downscaling(self) -> int:
        """Image pixels per latent pixel, along one side."""
        ...

    @property
    def is_random(self) -> bool:
        """Whether an image has a distribution of latents, so that training draws one."""
        ...

    def encode(self, images: Tensor) -> Posterior:
        """Return what is known of the raw latents of images in [-1, 1]."""
        ...

    def normalise(self, raw: Tensor) -> Tensor:
        """Scale, shift and pack raw latents into what is trained on."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [-1, 1] from latents as they are trained on."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def to(self, device: torch.device) -> Any:
        """Move the weights; the next call runs there."""
        ...


def latent_shape(codec: Codec, size: Size) -> tuple[int, int, int]:
    """Return channels, height and width of the latent of an image.

    Args:
        codec: Maps images to latents.
        size: Of the image.

    Raises:
        UserError: If a side is no multiple of the downscaling.
    """
    factor = codec.downscaling
    if min(size) < factor or size.height_px % factor or size.width_px % factor:
        nearest = [max(1, side // factor) * factor for side in size]
        raise UserError(
            f"An image of {size.width_px} x {size.height_px} px (width x height) does not fit the codec, which scales "
            f"both sides down by {factor}. Each must be a multiple of it. Take {nearest[1]} x {nearest[0]} px."
        )
    return codec.channels, size.height_px // factor, size.width_px // factor
