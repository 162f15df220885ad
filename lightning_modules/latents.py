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
"""Images that are encoded at once, up to 512 x 512 px; see `encode_chunk`."""


def encode_chunk(size: Size) -> int:
    """Return how many images of a size are encoded at once: 8 up to 512 x 512 px, fewer of larger ones, at least one.

    Activations of a codec grow with the pixels: 8 images of 1024 px take 20 GiB in the one of SDXL.

    Args:
        size: Of the images.
    """
    return max(1, min(ENCODE_CHUNK, ENCODE_CHUNK * 512**2 // (size.height_px * size.width_px)))


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
    parts, count = [], encode_chunk(Size(*images.shape[-2:]))
    for start in range(0, len(images), count):
        chunk = images[start : start + count]
        padding = chunk[-1:].expand(count - len(chunk), *chunk.shape[1:])
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
