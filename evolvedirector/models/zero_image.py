"""The embedding that unCLIP decoders are guided away from: that of an image of zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def zero_image_embedding(image_encoder: Any) -> Float[Tensor, " embedding"]:
    """Embed an image of zeros, as the Kandinsky pipelines of diffusers do (`get_zero_embed`).

    The zeros are pixel values behind the image processor's normalisation: the mean colour of CLIP's data, not black.

    Args:
        image_encoder: A `CLIPVisionModelWithProjection`.
    """
    import torch

    side_px = image_encoder.config.image_size
    zeros = torch.zeros(1, 3, side_px, side_px, device=image_encoder.device, dtype=image_encoder.dtype)
    with torch.no_grad(), torch.autocast(image_encoder.device.type, enabled=False):
        embedding: Tensor = image_encoder(zeros).image_embeds[0]
    return embedding
