"""What the layers of FLUX.1 and FLUX.2 are called outside of diffusers, which splits what the original code fuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.family import KeyMap, Layout

OriginalLayers: TypeAlias = Mapping[str, Mapping[str, tuple[str, ...]]]
"""By list of blocks in the network: layer of the original code -> diffusers' layers, in the order of their outputs."""

_BLOCKS = {"transformer_blocks": "double_blocks", "single_transformer_blocks": "single_blocks"}
_ATTENTION = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
}
FLUX1_LAYERS: OriginalLayers = {
    "transformer_blocks": {
        **_ATTENTION,
        "img_mlp.0": ("ff.net.0.proj",),
        "img_mlp.2": ("ff.net.2",),
        "img_mod.lin": ("norm1.linear",),
        "txt_mlp.0": ("ff_context.net.0.proj",),
        "txt_mlp.2": ("ff_context.net.2",),
        "txt_mod.lin": ("norm1_context.linear",),
    },
    "single_transformer_blocks": {
        "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        "linear2": ("proj_out",),
        "modulation.lin": ("norm.linear",),
    },
}
FLUX2_LAYERS: OriginalLayers = {
    "transformer_blocks": {
        **_ATTENTION,
        "img_mlp.0": ("ff.linear_in",),
        "img_mlp.2": ("ff.linear_out",),
        "txt_mlp.0": ("ff_context.linear_in",),
        "txt_mlp.2": ("ff_context.linear_out",),
    },
    "single_transformer_blocks": {"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)},
}


def flux_key_map(layers: OriginalLayers, layout: Layout, comfyui_ends: tuple[str, str]) -> KeyMap:
    """Return how LoRA tensors of a FLUX network are called in a layout.

    Args:
        layers: Of the network.
        layout: Who reads them.
        comfyui_ends: How its two matrices are called in files for ComfyUI. It reads both ways, diffusers one of them
            for each family; files without `lora_down` hold no alpha.
    """
    if layout == "diffusers":
        return lambda name: name
    if layout == "kohya":
        return FluxKeyMap(layers, "lora_unet_", "_", ("lora_down", "lora_up"))
    return FluxKeyMap(layers, "diffusion_model.", ".", comfyui_ends)


@dataclass(frozen=True)
class FluxKeyMap:
    """Map `<layer>.lora_A.weight`, `.lora_B.weight` and `.alpha` to the names of the original code.

    Args:
        layers: Of the network.
        prefix: Before every name.
        separator: Between the parts of a layer's name.
        ends: How the two matrices are called.
    """

    layers: OriginalLayers
    prefix: str
    separator: str
    ends: tuple[str, str]

    @property
    def has_alpha(self) -> bool:
        """Whether files hold an alpha for each layer."""
        return self.ends[0] == "lora_down"

    def __call__(self, name: str) -> str:
        """Return the name of a tensor of a LoRA.

        Raises:
            UserError: The layout has none for it.
        """
        layer, end = _split(name)
        blocks, number, original = self._find(layer)
        parts = ".".join([_BLOCKS[blocks], number, original]).replace(".", self.separator)
        ends = {"lora_A.weight": f"{self.ends[0]}.weight", "lora_B.weight": f"{self.ends[1]}.weight", "alpha": "alpha"}
        return f"{self.prefix}{parts}.{ends[end]}"

    def fused(self, layer: str) -> list[str]:
        """List the layers of the network that the layout keeps as one with this, in the order of their outputs."""
        blocks, number, original = self._find(layer)
        return [f"{blocks}.{number}.{member}" for member in self.layers[blocks][original]]

    def _find(self, layer: str) -> tuple[str, str, str]:
        found = re.fullmatch(r"(transformer_blocks|single_transformer_blocks)\.(\d+)\.(.+)", layer)
        for original, members in self.layers[found[1]].items() if found else ():
            if found and found[3] in members:
                return found[1], found[2], original
        raise UserError(
            f"There is no published name for {layer!r} in this layout. Allowed are linear layers of the blocks. "
            "Leave it out of the LoRA's targets, or write layout: diffusers."
        )


def _split(name: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.+)\.(lora_A\.weight|lora_B\.weight|alpha)", name)
    if found is None:
        raise UserError(
            f"{name!r} is no tensor of a LoRA. In this layout only those have names: <layer>.lora_A.weight, "
            "<layer>.lora_B.weight and <layer>.alpha. Write layout: diffusers for whole networks."
        )
    return found[1], found[2]
