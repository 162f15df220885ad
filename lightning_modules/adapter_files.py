"""A trained LoRA outside of its run: named as other programs read it, or fused into its base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert, whole_float32
from evolvedirector.experts.lora import ADAPTER, LoRA, is_adapter
from evolvedirector.experts.trained import Trained
from evolvedirector.lightning_modules.assemble import Where, assemble
from evolvedirector.lightning_modules.compute import Compute
from evolvedirector.lightning_modules.families.family import Family, Layout
from evolvedirector.lightning_modules.families.lora_layout import FusesLayers, LowRank, lora_in_layout
from evolvedirector.models.quantised import quantised_layers

_DOWN, _UP, _LENGTHS = (f".{part}.{ADAPTER}.weight" for part in ("lora_A", "lora_B", "lora_magnitude_vector"))


def check_layout(family: Family, lora: LoRA, layout: Layout) -> None:
    """Refuse a layout that has no names for such a LoRA; nothing is loaded for it.

    Args:
        family: Of the network.
        lora: What was trained.
        layout: Who is to read the file.

    Raises:
        UserError: Nobody has published the names, or the LoRA is a DoRA.
    """
    family.key_map(layout)
    if lora.dora and layout != "diffusers":
        raise UserError(
            f"The adapter is a DoRA (dora: true), and --layout is {layout}. Allowed is diffusers: other programs scale "
            "its directions in ways of their own. Leave --layout out, or fuse it into the base with --merged."
        )


def adapter_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the whole adapter on the CPU, under its names in the network; every rank of a sharded one calls it.

    Args:
        network: With an adapter.
    """
    return {name: whole_float32(part) for name, part in network.named_parameters() if is_adapter(name)}


def tensors_of(expert: Expert) -> dict[str, Tensor]:
    """Return the factors of an expert under the names that the only adapter of a network has.

    Args:
        expert: One of a run, or a merge of several.
    """
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in expert.factors.items():
        tensors |= {layer + _DOWN: down, layer + _UP: up}
    return tensors


def lora_pairs(tensors: Mapping[str, Tensor], lora: LoRA) -> dict[str, LowRank]:
    """Return the pairs of matrices by the name of their layer.

    Args:
        tensors: As `adapter_tensors` returns them.
        lora: What was trained.
    """
    layers = [name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)]
    return {layer: LowRank(tensors[layer + _DOWN], tensors[layer + _UP], lora.scale * lora.rank) for layer in layers}


def lora_file(
    network: nn.Module, family: Family, lora: LoRA, tensors: Mapping[str, Tensor], layout: Layout
) -> dict[str, Tensor]:
    """Name the tensors of a LoRA as a program reads them.

    In the layout of diffusers the scale is in the second matrix, and a DoRA brings the lengths of its columns. Other
    files say alpha for each layer where their programs read it.

    Args:
        network: With the adapter; says how wide layers are.
        family: Of the network.
        lora: What was trained.
        tensors: As `adapter_tensors` returns them.
        layout: Who reads it.

    Raises:
        UserError: The layout has no name for a layer.
    """
    key_map = family.key_map(layout)
    pairs = lora_pairs(tensors, lora)
    named = lora_in_layout(pairs, key_map, network)
    if layout == "diffusers":
        for name, lengths in tensors.items():
            if name.endswith(_LENGTHS):
                named[f"{name.removesuffix(_LENGTHS)}.lora_magnitude_vector"] = lengths
    elif not isinstance(key_map, FusesLayers):
        for layer, pair in pairs.items():  # readers that find no alpha do not all take 1 for the factor
            named[key_map(f"{layer}.alpha")] = torch.tensor(float(pair.rank))
    return named


def fused_network(
    network: nn.Module, family: Family, seed: int, lora: LoRA, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """Return a plain network in float32 that computes what base and LoRA do together.

    A quantised base is taken as it was beside the LoRA in training: its layers are dequantised, so that the rounding
    that the LoRA has learned to make up for stays.

    Args:
        network: With the adapter.
        family: Builds another one.
        seed: Of initial weights, where the base has no others.
        lora: What was trained.
        tensors: As `adapter_tensors` returns them.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    fused, _ = assemble(family, seed, Trained(lora), Compute(), Where())
    names = {part: name for name, part in network.named_modules()}
    with torch.no_grad():
        for layer in quantised_layers(network):
            cast(nn.Linear, fused.get_submodule(names[layer])).weight.copy_(_dequantised(layer))
    found = fused.load_state_dict(dict(tensors), strict=False)
    assert not found.unexpected_keys and not any(map(is_adapter, found.missing_keys))
    for parent in list(fused.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BaseTunerLayer):
                merged: Any = layer
                merged.merge(adapter_names=[ADAPTER])
                setattr(parent, name, merged.get_base_layer())
    del fused.peft_config  # peft leaves it at the network
    return fused.requires_grad_(False).eval()


def _dequantised(layer: Any) -> Tensor:
    from peft.utils.integrations import dequantize_bnb_weight

    is_eight_bit = type(layer).__name__ == "Linear8bitLt"
    return cast(Tensor, dequantize_bnb_weight(layer.weight, state=layer.state if is_eight_bit else None))
