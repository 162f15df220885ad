"""The names of LoRA tensors for a network of a stock pipeline, of which no more than its class and config is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.family import KeyMap, Layout
from evolvedirector.lightning_modules.families.flux1 import Flux1
from evolvedirector.lightning_modules.families.flux2 import Flux2Klein
from evolvedirector.lightning_modules.families.pixart import PixArt
from evolvedirector.lightning_modules.families.qwen_image import QwenImage
from evolvedirector.lightning_modules.families.sana import Sana
from evolvedirector.lightning_modules.families.sd3 import SD3
from evolvedirector.lightning_modules.families.unet import UNetNumbers, arguments_of, unet_key_map
from evolvedirector.lightning_modules.families.z_image import ZImage

_UNET = "UNet2DConditionModel"
_BY_CLASS: Mapping[str, Callable[[Layout], KeyMap]] = {
    "FluxTransformer2DModel": Flux1.key_map,
    "Flux2Transformer2DModel": Flux2Klein.key_map,
    "PixArtTransformer2DModel": PixArt.key_map,
    "QwenImageTransformer2DModel": QwenImage.key_map,
    "SanaTransformer2DModel": Sana.key_map,
    "SD3Transformer2DModel": SD3.key_map,
    "ZImageTransformer2DModel": ZImage.key_map,
}


def stock_key_map(kind: str, config: Mapping[str, Any], layout: Layout) -> KeyMap:
    """Return how the LoRA tensors of a stock network are called in a layout.

    Args:
        kind: Its class in diffusers.
        config: Of the network, defaults filled in.
        layout: Who reads the file.

    Raises:
        UserError: No family has such networks, or nobody has published the names.
    """
    if kind == _UNET:
        reads_sizes = config["addition_embed_type"] == "text_time"  # SDXL
        return unet_key_map(layout, UNetNumbers(**arguments_of(config)), lora_in_ldm_names=reads_sizes)
    if kind not in _BY_CLASS:
        raise UserError(
            f"No family has a {kind}, so nobody here knows what its LoRAs are called. Allowed are "
            f"{', '.join(sorted([_UNET, *_BY_CLASS]))}. Write --layout ours."
        )
    return _BY_CLASS[kind](layout)
