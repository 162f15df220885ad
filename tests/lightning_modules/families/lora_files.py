"""LoRA files in the layouts of several tools, from one random LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evolvedirector.lightning_modules.families.family import Family, Layout

RANK, ALPHA = 2, 4.0


def lora_of(network: nn.Module, targets: Sequence[str]) -> dict[str, Tensor]:
    """Return random pairs for the targets, named as in the network, loud enough to change an image.

    Args:
        network: Whose layers they adapt.
        targets: Ends of the names of its layers.
    """
    draws = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(tuple(targets)):
            tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, layer.in_features, generator=draws)
            tensors[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, RANK, generator=draws)
    assert tensors
    return tensors


def names_of(family: Family, layout: Layout, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the file's tensors: with alpha in foreign layouts, scaled by alpha / rank in that of diffusers.

    Args:
        family: Knows the names.
        layout: Whose file.
        tensors: As `lora_of` returns them.
    """
    key_map = family.key_map(layout)
    if layout == "diffusers":  # a pipeline's file says which of its parts is meant
        scale = {".lora_A.weight": ALPHA / RANK, ".lora_B.weight": 1.0}
        return {f"transformer.{key_map(name)}": value * scale[name[-14:]] for name, value in tensors.items()}
    alphas = {name.replace("lora_A.weight", "alpha"): torch.tensor(ALPHA) for name in tensors if "lora_A" in name}
    return {key_map(name): value for name, value in {**tensors, **alphas}.items()}
