"""What the autoencoders of diffusers have in common: how they are called, and what their weights must agree with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evolvedirector.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float


def encoded(model: Any, images: Tensor) -> Any:
    """Return what the autoencoder says of images, computed in the precision of its weights.

    Args:
        model: Of diffusers.
        images: In [-1, 1], with the axes that it reads.
    """
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return model.encode(images.to(model.dtype))


def decoded(model: Any, raw: Tensor) -> Float[Tensor, ...]:
    """Return images in [-1, 1] of raw latents, as float32.

    Args:
        model: Of diffusers.
        raw: Latents before scale and shift, with the axes that it reads.
    """
    with torch.no_grad(), torch.autocast(raw.device.type, enabled=False):
        images: Tensor = model.decode(raw.to(model.dtype), return_dict=False)[0]
    return images.float()


def check_latents(name: str, found: tuple[int, int], described: tuple[int, int], note: str = "") -> None:
    """Refuse a description that contradicts the weights.

    Args:
        name: Folder or repository.
        found: Channels of a latent and downscaling of the weights.
        described: Those that the config says.
        note: Follows the numbers in the error.

    Raises:
        UserError: They differ.
    """
    if found != described:
        raise UserError(
            f"Autoencoder {name!r} has {found[0]} latent channels and downscaling {found[1]}{note}, but "
            f"latent_channels is {described[0]} and downscaling {described[1]}. Allowed are its own. "
            f"Write latent_channels: {found[0]}, downscaling: {found[1]}."
        )
