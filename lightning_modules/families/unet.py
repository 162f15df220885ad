"""The UNet of Stable Diffusion and SDXL: its numbers, how it is built, and its names in other tools."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.family import KeyMap, Layout
from evolvedirector.lightning_modules.families.pretrained import Pretrained, agree
from evolvedirector.models.import_diffusers import diffusers_class

UNET = "UNet2DConditionModel"

# Further inputs that a UNet of diffusers may have, and that neither family gives it.
_FURTHER_INPUTS = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
_ARGUMENTS = {
    "cross_attention_dim": "dimension of the text encoders, their sum,",
    "addition_time_embed_dim": "size_embed_dim",
    "projection_class_embeddings_input_dim": "pooled_dimension of clip_g + 6 size_embed_dim",
    "in_channels": "latent_channels of the codec",
    "out_channels": "latent_channels of the codec",
}
_LORA_SUFFIX = re.compile(r"\.(?:lora_(A|B)(?:\.\w+)?\.weight|(alpha)|(lora_magnitude_vector))$")
_KOHYA_LORA = {"A": "lora_down.weight", "B": "lora_up.weight", "alpha": "alpha", "lora_magnitude_vector": "dora_scale"}
_LDM_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_LDM_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_PART = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class UNetNumbers:
    """Describe a UNet by what stands on each of its levels, from the image down; each halves the sides of the last.

    Args:
        channels: Per level.
        transformer_layers: Transformer blocks behind each pair of convolutions, per level; 0 for no attention.
        heads: Heads per attention, per level (diffusers keeps them under `attention_head_dim`).
        layers_per_level: Pairs of convolutions on the way down; one more on the way up.
        norm_groups: Groups of every group norm.
        linear_projection: Linear layers into and out of the attentions in place of convolutions.

    Raises:
        UserError: The lists have different lengths, or the groups do not divide the channels.
    """

    channels: Sequence[int]
    transformer_layers: Sequence[int]
    heads: Sequence[int]
    layers_per_level: int
    norm_groups: int
    linear_projection: bool

    def __post_init__(self) -> None:
        lengths = {name: len(numbers) for name, numbers in self._per_level().items()}
        if len(set(lengths.values())) > 1:
            raise UserError(
                f"The lists of the UNet have different lengths: {lengths}. Each has one number per level. Write as many"
                f" transformer_layers (0: no attention) and heads as channels, here {len(self.channels)}."
            )
        if odd := [width for width in self.channels if width % self.norm_groups]:
            raise UserError(
                f"channels has {odd[0]}, which norm_groups {self.norm_groups} does not divide. Group norms need whole "
                f"groups. Write a multiple of {self.norm_groups}."
            )

    def config(self) -> dict[str, Any]:
        """Return the diffusers keys of these numbers."""
        kinds = ["CrossAttn" if layers else "" for layers in self.transformer_layers]
        return {
            "block_out_channels": tuple(self.channels),
            "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
            "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            # a level without attention has a 1 there, and the middle takes the last one
            "transformer_layers_per_block": tuple(layers or 1 for layers in self.transformer_layers),
            "attention_head_dim": tuple(self.heads),
            "layers_per_block": self.layers_per_level,
            "norm_num_groups": self.norm_groups,
            "use_linear_projection": self.linear_projection,
        }

    def arguments(self) -> dict[str, Any]:
        """Return the numbers by name, as a family takes them."""
        return self._per_level() | {
            "layers_per_level": self.layers_per_level,
            "norm_groups": self.norm_groups,
            "linear_projection": self.linear_projection,
        }

    def _per_level(self) -> dict[str, list[int]]:
        return {
            "channels": list(self.channels),
            "transformer_layers": list(self.transformer_layers),
            "heads": list(self.heads),
        }


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the numbers of a family out of a diffusers config, which writes equal ones of all levels once.

    Args:
        config: Of a `UNet2DConditionModel`, defaults filled in.
    """
    levels = len(config["block_out_channels"])

    def spread(value: Any) -> list[Any]:
        return list(value) if isinstance(value, list | tuple) else [value] * levels

    layers = spread(config["transformer_layers_per_block"])
    return {
        "channels": list(config["block_out_channels"]),
        "transformer_layers": [
            count if kind.startswith("CrossAttn") else 0
            for count, kind in zip(layers, config["down_block_types"], strict=True)
        ],
        "heads": spread(config["num_attention_heads"] or config["attention_head_dim"]),
        "layers_per_level": config["layers_per_block"],
        "norm_groups": config["norm_num_groups"],
        "linear_projection": config["use_linear_projection"],
    }


def pretrained_config(pretrained: Pretrained, wants: Mapping[str, Any], added: str | None) -> dict[str, Any]:
    """Return the config of pretrained weights; refuse those of another network, or of other numbers than described.

    Args:
        pretrained: Names the weights.
        wants: The family's arguments and what the config says; its keys are those of `arguments_of` and of diffusers.
        added: `text_time` for a network that reads sizes and a pooled vector (SDXL), else None.

    Raises:
        UserError: Names the first difference.
    """
    model_class = diffusers_class(UNET)
    kind = pretrained.written_config(model_class).get("_class_name", UNET)
    if kind != UNET:
        raise UserError(
            f"The weights of {pretrained.name!r} are those of {kind}. Allowed is {UNET}. Choose the family that has "
            "them, or write pretrained_subfolder: unet."
        )
    loaded = pretrained.config(model_class)
    if loaded["addition_embed_type"] != added:
        family = {"text_time": "SDXL", None: "StableDiffusion"}.get(loaded["addition_embed_type"])
        raise UserError(
            f"The weights of {pretrained.name!r} have addition_embed_type {loaded['addition_embed_type']!r}. Here "
            f"{added!r} is allowed. "
            + (f"Write class_path: evolvedirector.lightning_modules.{family}." if family else "Choose other weights.")
        )
    if further := [key for key in _FURTHER_INPUTS if loaded[key] is not None]:
        raise UserError(
            f"The UNet of {pretrained.name!r} has {further[0]}: {loaded[further[0]]}, an input that this family does "
            "not give it. Allowed are UNets that read text alone, or as SDXL's, sizes too. Choose other weights."
        )
    agree(wants, loaded | arguments_of(loaded), _ARGUMENTS, pretrained.name)
    return loaded


def unet_blocks(network: nn.Module) -> list[nn.Module]:
    """List the levels on the way down, the middle, and the levels on the way up."""
    down, up = cast(nn.ModuleList, network.down_blocks), cast(nn.ModuleList, network.up_blocks)
    return [*down, cast(nn.Module, network.mid_block), *up]


def unet_lora_targets() -> Sequence[str]:
    """Name the projections of self- and cross-attention, as the LoRA scripts of diffusers."""
    return ("to_q", "to_k", "to_v", "to_out.0")


def unet_key_map(layout: Layout, numbers: UNetNumbers, lora_in_ldm_names: bool) -> KeyMap:
    """Return the names of a UNet's tensors, and of those of a LoRA on it.

    `kohya` and `comfyui` are one layout here: kohya's scripts write it and ComfyUI reads it. A LoRA of X has
    `lora_unet_X.lora_down.weight`, `.lora_up.weight` and `.alpha`, dots of X as underscores; X is the name in diffusers
    for Stable Diffusion 1.x and 2.x, and the one in CompVis' latent diffusion for SDXL. Whole weights are called as in
    a checkpoint of that code: `model.diffusion_model...`.

    Args:
        layout: Who reads the weights.
        numbers: Of the UNet: levels are numbered through there.
        lora_in_ldm_names: Whether a LoRA's X is the latter.
    """
    if layout == "diffusers":
        return lambda name: name

    def named(name: str) -> str:
        lora = _LORA_SUFFIX.search(name)
        if lora is None:
            return f"model.diffusion_model.{ldm_name(name, numbers)}"
        module = name[: lora.start()]
        # a tensor's name ends in its kind, which `ldm_name` keeps
        layer = ldm_name(f"{module}.weight", numbers).removesuffix(".weight") if lora_in_ldm_names else module
        suffix = next(group for group in lora.groups() if group)
        return f"lora_unet_{layer.replace('.', '_')}.{_KOHYA_LORA[suffix]}"

    return named


def ldm_name(name: str, numbers: UNetNumbers) -> str:
    """Return what CompVis' latent diffusion (Rombach et al. 2022) calls a tensor of the UNet.

    There the parts of all levels are numbered through: `input_blocks.N` on the way down, the convolution into the UNet
    being the first and each downsampler one of its own, `output_blocks.N` on the way up, where an upsampler stands at
    the end of the last part of its level.

    Args:
        name: In diffusers, with `weight` or `bias` at its end.
        numbers: Of the UNet.

    Raises:
        UserError: No tensor of this UNet is called so.
    """
    layer, _, kind = name.rpartition(".")
    if layer in _LDM_TOP:
        return f"{_LDM_TOP[layer]}.{kind}"
    found = _PART.fullmatch(name)
    if found is None:
        raise UserError(
            f"The UNet has no tensor {name!r}. Allowed are the names of diffusers, say conv_in.weight. Give the name "
            "without prefix of a pipeline."
        )
    way, level, part, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    per_level = numbers.layers_per_level + 1  # on the way down a downsampler is the last one
    if part == "downsamplers":
        return f"input_blocks.{1 + level * per_level + numbers.layers_per_level}.0.{rest.replace('conv.', 'op.')}"
    if part == "upsamplers":
        has_attention = numbers.transformer_layers[len(numbers.channels) - 1 - level] > 0
        return f"output_blocks.{level * per_level + numbers.layers_per_level}.{2 if has_attention else 1}.{rest}"
    if part == "resnets":
        inner, _, kind = rest.rpartition(".")
        rest = f"{_LDM_RESNET[inner]}.{kind}"
    if way is None:
        return f"middle_block.{1 if part == 'attentions' else 2 * index}.{rest}"
    slot = 1 if part == "attentions" else 0
    place = level * per_level + index
    return f"input_blocks.{1 + place}.{slot}.{rest}" if way == "down" else f"output_blocks.{place}.{slot}.{rest}"
