"""Latents of training images: encoded in chunks of one size, or read in place of the images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evolvedirector.lightning_modules.codecs.codec import Codec, Posterior, latent_shape
from evolvedirector.lightning_modules.codecs.pixels import Pixels
from evolvedirector.lightning_modules.sampling import from_uint8
from evolvedirector.records.condition import Size

if TYPE_CHECKING:
    from jaxtyping import UInt8

ENCODE_CHUNK = 8


def latent_bytes(codec: Codec, size: Size) -> int:
    """Return what the latents of one image take on disk, in bytes; 0 in pixel space.

    Args:
        codec: Of the model.
        size: Of the image.
    """
    if isinstance(codec, Pixels):
        return 0
    return 4 * math.prod(latent_shape(codec, size)) * (2 if codec.is_random else 1)


def posterior_of(codec: Codec, images: UInt8[Tensor, "batch 3 height width"]) -> Posterior:
    """Encode images in chunks of one size, the last one padded.

    So the latents of an image do not depend on how many others lacked theirs: a run that finds them on disk trains like
    one that does not, to the bit.

    Args:
        codec: On the device of the images.
        images: Of one size.
    """
    parts = []
    for start in range(0, len(images), ENCODE_CHUNK):
        chunk = images[start : start + ENCODE_CHUNK]
        padding = chunk[-1:].expand(ENCODE_CHUNK - len(chunk), *chunk.shape[1:])
        part = codec.encode(from_uint8(torch.cat([chunk, padding])))
        deviation = None if part.deviation is None else part.deviation[: len(chunk)]
        parts.append(Posterior(part.mean[: len(chunk)], deviation))
    deviations = [part.deviation for part in parts if part.deviation is not None]
    return Posterior(torch.cat([part.mean for part in parts]), torch.cat(deviations) if deviations else None)


def posterior_of_batch(codec: Codec, batch: Mapping[str, Any], device: torch.device) -> Posterior:
    """Return what is known of the raw latents of a training batch: read, or encoded now.

    Args:
        codec: Moved to the device where it is needed.
        batch: With `latent_mean` and, from a random codec, `latent_deviation`; or with `image`.
        device: Where the latents are wanted.
    """
    if "latent_mean" not in batch:
        codec.to(device)
        return posterior_of(codec, batch["image"].to(device))
    deviation = batch.get("latent_deviation")
    return Posterior(batch["latent_mean"].to(device), None if deviation is None else deviation.to(device))


def size_of_batch(batch: Mapping[str, Any]) -> Size:
    """Return the one size of the images of a batch, in pixels."""
    if "latent_mean" in batch:
        height_px, width_px = batch["size_px"][0].tolist()
        return Size(height_px, width_px)
    return Size(*batch["image"].shape[-2:])
