"""Write a LoRA in each layout, and draw with each file through the stock pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from evolvedirector.lightning_modules.families import Family, Layout
from evolvedirector.lightning_modules.families.lora_layout import LowRank, lora_in_layout

RANK, ALPHA = 4, 2.0
Drawn = TypeVar("Drawn")


def random_lora(network: Any, targets: Sequence[str] | str) -> dict[str, LowRank]:
    """Make a LoRA that changes something: peft starts its second matrix at zero."""
    network.add_adapter(
        LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets if isinstance(targets, str) else list(targets))
    )
    generator = torch.Generator().manual_seed(3)
    tensors = get_peft_model_state_dict(network)
    network.delete_adapters("default")
    layers = sorted({name.rsplit(".", 2)[0] for name in tensors})
    pairs = {}
    for layer in layers:
        down, up = tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"]
        random = [torch.randn(part.shape, generator=generator) / math.sqrt(part.shape[1]) for part in (down, up)]
        pairs[layer] = LowRank(random[0], random[1] * 4, ALPHA)
    return pairs


def saved_lora(family: Family, network: Any, lora: Mapping[str, LowRank], layout: Layout, folder: Path) -> Path:
    """Write the file that a user of that program has."""
    tensors = lora_in_layout(lora, family.key_map(layout), network)
    if layout == "diffusers":
        tensors = {f"transformer.{name}": value for name, value in tensors.items()}
    path = folder / f"{layout}.safetensors"
    save_file(tensors, path)
    return path


def drawn_in_every_layout(
    family: Family, network: Any, pipeline: Any, lora: Mapping[str, LowRank], folder: Path, draw: Callable[[Any], Drawn]
) -> dict[str, Drawn]:
    """Draw with the file of each layout, loaded by the stock pipeline; the last file is taken out again."""
    images = {}
    for layout in get_args(Layout):
        path = saved_lora(family, network, lora, layout, folder)
        pipeline.load_lora_weights(folder, weight_name=path.name)
        images[layout] = draw(pipeline)
        pipeline.unload_lora_weights()
    return images
