"""A LoRA under other names changes each layer by what it changed it by before."""

from __future__ import annotations

import pytest
import torch

from evolvedirector.lightning_modules.families.flux_layers import FLUX1_LAYERS, flux_key_map
from evolvedirector.lightning_modules.families.lora_layout import (
    FusesLayers,
    LowRank,
    fuse,
    lora_in_layout,
    lora_of_layout,
)


def pair(rank: int, outputs: int, alpha: float) -> LowRank:
    generator = torch.Generator().manual_seed(rank)
    return LowRank(torch.randn(rank, 5, generator=generator), torch.randn(outputs, rank, generator=generator), alpha)


def change(of: LowRank) -> torch.Tensor:
    return of.scale * of.up @ of.down


def test_fused_pairs_of_any_ranks_and_alphas_change_each_layer_as_before() -> None:
    query, value = pair(2, 4, 1.0), pair(3, 6, 6.0)
    whole = fuse([query, None, value], [4, 4, 6])
    assert whole.rank == 5 and whole.scale == query.scale
    torch.testing.assert_close(change(whole), torch.cat([change(query), torch.zeros(4, 5), change(value)]))
    torch.testing.assert_close(change(value.at_scale(1.0)), change(value))


def test_names_and_alphas_are_those_of_the_layout() -> None:
    network = torch.nn.ModuleDict()
    block = torch.nn.ModuleDict({"attn": torch.nn.ModuleDict()})
    for name in ("to_q", "to_k", "to_v"):
        block["attn"][name] = torch.nn.Linear(5, 4)  # type: ignore[index, operator]
    network["transformer_blocks"] = torch.nn.ModuleList([block])
    lora = {"transformer_blocks.0.attn.to_v": pair(2, 4, 1.0), "transformer_blocks.0.attn.to_q": pair(2, 4, 1.0)}
    kohya = flux_key_map(FLUX1_LAYERS, "kohya", ("lora_down", "lora_up"))
    assert isinstance(kohya, FusesLayers)
    tensors = lora_in_layout(lora, kohya, network)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    assert tensors.keys() == {f"{name}.alpha", f"{name}.lora_down.weight", f"{name}.lora_up.weight"}
    assert float(tensors[f"{name}.alpha"]) == 2.0 and tensors[f"{name}.lora_up.weight"].shape == (12, 4)
    comfyui = lora_in_layout(lora, flux_key_map(FLUX1_LAYERS, "comfyui", ("lora_A", "lora_B")), network)
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    assert comfyui.keys() == {f"{name}.lora_A.weight", f"{name}.lora_B.weight"}
    plain = lora_in_layout(lora, flux_key_map(FLUX1_LAYERS, "diffusers", ("", "")), network)
    assert len(plain) == 4 and "transformer_blocks.0.attn.to_q.lora_A.weight" in plain
    for names, written in ((kohya, tensors), (flux_key_map(FLUX1_LAYERS, "comfyui", ("lora_A", "lora_B")), comfyui)):
        read = lora_of_layout(written, names, network)
        assert read.keys() == lora.keys(), "a layer without LoRA has none again"
        assert all(read[layer].rank == 2 for layer in lora), "each has its own directions again"
        for layer in lora:
            torch.testing.assert_close(change(read[layer]), change(lora[layer]))
    with pytest.raises(ValueError, match=r"proj\.lora_up\.weight is the name of no LoRA tensor of this ModuleDict"):
        lora_of_layout(tensors | {"proj.lora_up.weight": torch.ones(1, 1)}, kohya, network)
    with pytest.raises(ValueError, match=r"no published name for 'proj_out'.*layout: diffusers"):
        kohya("proj_out.lora_A.weight")
    with pytest.raises(ValueError, match="no tensor of a LoRA"):
        kohya("proj_out.weight")
