"""What an editing network reads of the picture before: where it is drawn anew, and what is around that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.codec import Codec
from evolvedirector.lightning_modules.sampling import from_uint8
from evolvedirector.records.condition import Size


def surroundings(codec: Codec, sizes: Sequence[Size], files: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return mask and latents of the source blanked under it, as the stock pipeline hands them to the network.

    Args:
        codec: Maps the source to latents; moved to its device.
        sizes: Of the images.
        files: With `mask` (white where it is drawn anew) and `source`, uint8.

    Raises:
        UserError: One of them is no picture of the image's size.
    """
    mask, source = files["mask"], files["source"]
    for role, file in (("mask", mask), ("source", source)):
        fits = file.ndim == 4 and all(tuple(file.shape[-2:]) == tuple(size) for size in sizes)
        if not fits or file.dtype != torch.uint8:
            raise UserError(
                f"The role {role!r} is {file.dtype} of shape {tuple(file.shape)}, the images have "
                f"{sizes[0].height_px} x {sizes[0].width_px} px (height x width). Each must be a picture, 0-255, "
                "of the image's size. Scale it, or ask for images of its size."
            )
    anew = (mask[:, :1] >= 128).float()  # 0...255, half is drawn anew
    codec.to(source.device)
    latents = codec.normalise(codec.encode(from_uint8(source[:, :3]) * (1 - anew)).mean)
    return {"mask": nn.functional.interpolate(anew, size=latents.shape[-2:]), "source": latents}
