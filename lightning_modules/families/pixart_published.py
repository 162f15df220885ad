"""The published sizes of PixArt and Edgen."""

from __future__ import annotations

from typing import Any

from evolvedirector.lightning_modules.codecs.codec import Codec
from evolvedirector.lightning_modules.families.pixart import SIZED, PixArt
from evolvedirector.lightning_modules.text_encoders.text_encoder import TextEncoder


def pixart_alpha_xl_2(text_encoder: TextEncoder, codec: Codec, sample_size: int = 64) -> PixArt:
    """Return PixArt-alpha XL/2; `sample_size` 64 is 512 pixels behind an autoencoder of factor 8, 128 is 1024-MS."""
    return PixArt(text_encoder, sample_size, codec, **_published(sample_size))


def pixart_sigma_xl_2(text_encoder: TextEncoder, codec: Codec, sample_size: int = 128) -> PixArt:
    """Return PixArt-Sigma XL/2 (arXiv:2403.04692): 300 tokens, no sizes; `codec` is that of SDXL."""
    numbers = _published(sample_size) | {"use_additional_conditions": False}
    return PixArt(text_encoder, sample_size, codec, 300, version="sigma", **numbers)


def edgen_xl_2(text_encoder: TextEncoder, codec: Codec, sample_size: int = 64) -> PixArt:
    """Return Edgen: PixArt-alpha XL/2 with normalised queries and keys (arXiv:2410.07133)."""
    return PixArt(text_encoder, sample_size, codec, qk_norm=True, **_published(sample_size))


def _published(sample_size: int) -> dict[str, Any]:
    """Return learned variance, positions laid out for 512 px at scale 1, and sizes embedded at 1024 px."""
    return {
        "out_channels": 8,
        "interpolation_scale": sample_size / 64,
        "use_additional_conditions": sample_size == SIZED,
    }
