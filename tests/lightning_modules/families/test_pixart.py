"""The PixArt family: published sizes, normalised queries and keys, exchange with diffusers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import PixArtTransformer2DModel

from evolvedirector.lightning_modules.families import PixArt, TransformerFamily, edgen_xl_2, pixart_alpha_xl_2
from evolvedirector.lightning_modules.families.edgen import QKNormPixArtTransformer2DModel

SMALL = PixArt(sample_size=8, text_dimension=12, in_channels=4, patch_size=2, layers=2, heads=2, head_dim=8)


def test_edgen_has_the_published_number_of_parameters_and_the_keys_of_pixart_alpha() -> None:
    with torch.device("meta"):
        ours = QKNormPixArtTransformer2DModel(**edgen_xl_2().config())
        stock = PixArtTransformer2DModel(**pixart_alpha_xl_2().config())
    assert sum(parameter.numel() for parameter in ours.parameters()) == 610_856_096
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in stock.state_dict().items()}


def inputs(family: PixArt) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, family.in_channels, 8, 8, generator=generator)
    return noisy, torch.tensor([100.0, 900.0]), torch.randn(2, 5, 12, generator=generator), torch.ones(2, 5).bool()


def awake(family: PixArt) -> torch.nn.Module:
    """Build with weights that let text and time through (at first the output is silent)."""
    torch.manual_seed(0)
    transformer = family.build()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return transformer


def test_first_prediction_is_zero() -> None:
    assert not SMALL.predict(SMALL.build(), *inputs(SMALL)).any()


def test_norm_of_queries_and_keys_acts_in_every_attention() -> None:
    normed = replace(SMALL, qk_norm=True)
    with_norm, without = awake(normed), awake(SMALL)
    assert with_norm.state_dict().keys() == without.state_dict().keys()
    assert not torch.allclose(normed.predict(with_norm, *inputs(normed)), SMALL.predict(without, *inputs(SMALL)))
    for block in normed.blocks(with_norm):
        for attention in (block.attn1, block.attn2):
            with torch.no_grad():
                attention.to_q.weight.mul_(1.0)
            assert attention.norm_q.eps == 1e-6 and not list(attention.norm_k.parameters())
    before = normed.predict(with_norm, *inputs(normed))
    with torch.no_grad():
        for block in normed.blocks(with_norm):
            for attention in (block.attn1, block.attn2):
                attention.to_q.weight.mul_(3.0)  # the scale of queries and keys must not matter
                attention.to_q.bias.mul_(3.0)
                attention.to_k.weight.mul_(3.0)
                attention.to_k.bias.mul_(3.0)
    torch.testing.assert_close(normed.predict(with_norm, *inputs(normed)), before, rtol=1e-3, atol=1e-4)


def test_padding_does_not_reach_the_prediction() -> None:
    transformer = awake(SMALL)
    noisy, time, states, mask = inputs(SMALL)
    mask[:, 3:] = False
    changed = states.clone()
    changed[:, 3:] = 7.0
    assert torch.equal(
        SMALL.predict(transformer, noisy, time, states, mask), SMALL.predict(transformer, noisy, time, changed, mask)
    )


def test_learned_variance_is_left_out() -> None:
    family = replace(SMALL, out_channels=8)
    assert family.predict(family.build(), *inputs(family)).shape == (2, 4, 8, 8)


def test_exported_folder_is_read_back_and_refused_by_the_stock_class(tmp_path: Path) -> None:
    family = replace(SMALL, qk_norm=True)
    transformer = awake(family)
    transformer.save_pretrained(tmp_path)  # type: ignore[operator]
    assert json.loads((tmp_path / "config.json").read_text())["norm_type"] != "ada_norm_single"
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    again = replace(family, pretrained=str(tmp_path)).build()
    assert torch.equal(family.predict(again, *inputs(family)), family.predict(transformer, *inputs(family)))
    with pytest.raises(NotImplementedError, match="qk_layer_norm"):
        PixArtTransformer2DModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="qk_norm: true"):
        replace(SMALL, pretrained=str(tmp_path)).build()


def test_edgen_can_start_from_pixart_weights(tmp_path: Path) -> None:
    stock = awake(SMALL)
    stock.save_pretrained(tmp_path)  # type: ignore[operator]
    started = replace(SMALL, qk_norm=True, pretrained=str(tmp_path)).build()
    assert all(torch.equal(value, stock.state_dict()[name]) for name, value in started.state_dict().items())
    with pytest.raises(ValueError, match="ada_norm_single_qk_layer_norm"):
        QKNormPixArtTransformer2DModel.from_pretrained(tmp_path)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, saving = awake(SMALL), awake(replace(SMALL, gradient_checkpointing=True))
    for transformer in (plain, saving):
        SMALL.predict(transformer, *inputs(SMALL)).square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="Write sample_size: 8"):
        PixArt(sample_size=9, text_dimension=4, patch_size=4)
    with pytest.raises(ValueError, match="Write revision"):
        replace(SMALL, pretrained="someone/some-model")


def test_family_fits_the_seam() -> None:
    assert isinstance(SMALL, TransformerFamily)
