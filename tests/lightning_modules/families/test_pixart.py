"""The PixArt family: published sizes, normalised queries and keys, exchange with diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import Autoencoder, DDPMEpsilon, RandomTextEncoder, T5Encoder, TextToImage
from evolvedirector.lightning_modules.families import Family, PixArt, edgen_xl_2, pixart_alpha_xl_2, pixart_sigma_xl_2
from evolvedirector.lightning_modules.families.edgen import QKNormPixArtTransformer2DModel
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Condition, Extras, Size, Tokens
from tests.teachers.tiny_pipelines import kl_autoencoder, t5_text, word_tokenizer


class FourChannels(Autoencoder):
    """Only its numbers are asked for."""

    def __init__(self) -> None:
        super().__init__("no/weights", "0" * 40)


def small(**changes: Any) -> PixArt:
    numbers: dict[str, Any] = {"sample_size": 8, "patch_size": 2, "layers": 2, "heads": 2, "head_dim": 8}
    return PixArt(RandomTextEncoder(12), codec=FourChannels(), text_length=5, **(numbers | changes))


SMALL = small()
PLAIN = (RandomTextEncoder(4096), FourChannels())


def test_edgen_has_the_published_number_of_parameters_and_the_keys_of_pixart_alpha() -> None:
    with torch.device("meta"):
        ours = QKNormPixArtTransformer2DModel(**edgen_xl_2(*PLAIN).config())
        stock = PixArtTransformer2DModel(**pixart_alpha_xl_2(*PLAIN).config())
        sized = QKNormPixArtTransformer2DModel(**edgen_xl_2(*PLAIN, 128).config())
    assert sum(parameter.numel() for parameter in ours.parameters()) == 610_856_096
    assert sum(parameter.numel() for parameter in sized.parameters()) == 611_349_152  # and two embeddings of sizes
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in stock.state_dict().items()}


def inputs(family: PixArt) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, family.in_channels, 8, 8, generator=generator)
    text = Tokens(torch.randn(2, 5, 12, generator=generator), torch.ones(2, 5).bool())
    return noisy, torch.tensor([100.0, 900.0]), Condition({"text": text})


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
    normed = small(qk_norm=True)
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
    noisy, time, condition = inputs(SMALL)
    text = condition.tokens["text"]
    text.mask[:, 3:] = False
    changed = text.values.clone()
    changed[:, 3:] = 7.0
    other = Condition({"text": Tokens(changed, text.mask)})
    assert torch.equal(
        SMALL.predict(transformer, noisy, time, condition), SMALL.predict(transformer, noisy, time, other)
    )


def test_learned_variance_follows_the_noise() -> None:
    family = small(out_channels=8)
    assert family.predict(family.build(), *inputs(family)).shape == (2, 8, 8, 8)
    assert family.predicts_variance and not SMALL.predicts_variance
    TextToImage(family, DDPMEpsilon(variational_weight=0.001), 64)
    with pytest.raises(UserError, match="Write out_channels: 8"):
        TextToImage(SMALL, DDPMEpsilon(variational_weight=0.001), 64)
    with pytest.raises(UserError, match=r"Write variational_weight: 0\.001"):
        DDPMEpsilon(variational_weight=-1.0)


def test_buckets_that_patches_do_not_fill_are_refused() -> None:
    module = TextToImage(SMALL, DDPMEpsilon(), 64)
    module.check_buckets([(64, 64), (96, 48)])
    with pytest.raises(UserError, match=r"96 x 40 px \(width x height\) cannot be cut into patches of 16 px"):
        module.check_buckets([(64, 64), (96, 40)])


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    awake(SMALL).save_pretrained(tmp_path)  # type: ignore[operator]
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["proj_out.bias"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"lack proj_out\.bias\."):
        small(pretrained=str(tmp_path)).build()


def test_sigma_embeds_no_sizes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="version: alpha"):
        small(version="sigma", use_additional_conditions=True)
    sized = small(head_dim=12, use_additional_conditions=True)
    sized.build().save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match="Write version: alpha"):
        small(head_dim=12, version="sigma", pretrained=str(tmp_path)).build()


@pytest.mark.parametrize(("sample_size", "scale", "sized"), [(32, 0.5, False), (64, 1.0, False), (128, 2.0, True)])
def test_published_sizes_lay_positions_out_as_published(sample_size: int, scale: float, sized: bool) -> None:
    for made in (pixart_alpha_xl_2(*PLAIN, sample_size), edgen_xl_2(*PLAIN, sample_size)):
        assert made.config()["interpolation_scale"] == scale
        assert made.config()["use_additional_conditions"] == sized and made.text_length == 120
    sigma = pixart_sigma_xl_2(*PLAIN, sample_size)
    assert sigma.config()["interpolation_scale"] == scale and sigma.text_length == 300
    assert not sigma.config()["use_additional_conditions"] and sigma.version == "sigma"


def test_exported_folder_is_read_back_and_refused_by_the_stock_class(tmp_path: Path) -> None:
    family = small(qk_norm=True)
    transformer = awake(family)
    transformer.save_pretrained(tmp_path)  # type: ignore[operator]
    assert json.loads((tmp_path / "config.json").read_text())["norm_type"] != "ada_norm_single"
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()
    again = small(qk_norm=True, pretrained=str(tmp_path)).build()
    assert torch.equal(family.predict(again, *inputs(family)), family.predict(transformer, *inputs(family)))
    with pytest.raises(NotImplementedError, match="qk_layer_norm"):
        PixArtTransformer2DModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="qk_norm: true"):
        small(pretrained=str(tmp_path)).build()


def test_edgen_can_start_from_pixart_weights(tmp_path: Path) -> None:
    stock = awake(SMALL)
    stock.save_pretrained(tmp_path)  # type: ignore[operator]
    started = small(qk_norm=True, pretrained=str(tmp_path)).build()
    assert all(torch.equal(value, stock.state_dict()[name]) for name, value in started.state_dict().items())
    with pytest.raises(ValueError, match="ada_norm_single_qk_layer_norm"):
        QKNormPixArtTransformer2DModel.from_pretrained(tmp_path)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain, saving = awake(SMALL), awake(small(gradient_checkpointing=True))
    for transformer in (plain, saving):
        SMALL.predict(transformer, *inputs(SMALL)).square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="Write sample_size: 8"):
        small(sample_size=9, patch_size=4)
    with pytest.raises(ValueError, match="Write revision"):
        small(pretrained="someone/some-model")


def test_the_config_of_pretrained_weights_counts_and_is_not_contradicted(tmp_path: Path) -> None:
    stock = PixArtTransformer2DModel(**SMALL.config() | {"interpolation_scale": 2})
    stock.save_pretrained(tmp_path / "transformer")
    start = {"pretrained": str(tmp_path), "pretrained_subfolder": "transformer"}
    built: Any = small(**start).build()
    assert built.config.interpolation_scale == 2 and torch.equal(built.pos_embed.pos_embed, stock.pos_embed.pos_embed)
    for argument, value in {"layers": 3, "heads": 4, "sample_size": 16, "use_additional_conditions": True}.items():
        with pytest.raises(ValueError, match=rf"{argument} is .* Write {argument}: "):
            small(**{argument: value}, **start).build()
    wider: Any = small(sample_size=16, interpolation_scale=4.0, **start).build()
    assert wider.config.interpolation_scale == 4.0 and wider.config.sample_size == 16
    small(**start).verify()
    with pytest.raises(ValueError, match="the pretrained network has no config"):
        small(pretrained=str(tmp_path)).verify()


def test_counting_parameters_loads_no_weights(tmp_path: Path) -> None:
    awake(SMALL).save_pretrained(tmp_path)  # type: ignore[operator]
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with torch.device("meta"):
        assert next(small(pretrained=str(tmp_path)).build().parameters()).device.type == "meta"


def test_sizes_are_embedded_where_the_weights_ask_for_them(tmp_path: Path) -> None:
    # width divides by 3: the sizes share it
    PixArtTransformer2DModel(
        **small(head_dim=12, use_additional_conditions=True).config() | {"use_additional_conditions": True}
    ).save_pretrained(tmp_path)
    family = small(head_dim=12, pretrained=str(tmp_path))
    states = family.encode_text(["a", "b"])
    condition = family.condition(states, [Size(32, 64), Size(64, 64)], Extras())
    assert condition.vectors["resolution"].tolist() == [[32, 64], [64, 64]]
    assert condition.vectors["aspect_ratio"].tolist() == [[0.5], [1.0]]
    cropped = Extras(original_size_px=torch.tensor([[48, 80], [640, 640]]))  # what a batch says of itself goes first
    condition = family.condition(states, [Size(32, 64), Size(64, 64)], cropped)
    assert condition.vectors["resolution"].tolist() == [[48, 80], [640, 640]]
    assert condition.vectors["aspect_ratio"].tolist() == [[0.5], [1.0]]
    network = family.build()
    noisy, time, _ = inputs(family)
    first, second = (
        family.predict(network, noisy, time, family.condition(states, [size] * 2, Extras()))
        for size in (Size(32, 64), Size(64, 64))
    )
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="Write use_additional_conditions: True"):
        small(head_dim=12, pretrained=str(tmp_path), use_additional_conditions=False).build()


def test_lora_targets_are_the_attentions() -> None:
    names = [name for name, part in SMALL.build().named_modules() if isinstance(part, torch.nn.Linear)]
    found = [name for name in names if name.endswith(tuple(SMALL.lora_targets()))]
    assert len(found) == 2 * 2 * 4  # layers x attentions x projections


def test_only_published_names_are_offered() -> None:
    assert SMALL.key_map("diffusers")("proj_out.weight") == "proj_out.weight"
    for layout in ("comfyui", "kohya"):
        with pytest.raises(ValueError, match="Write layout: diffusers"):
            SMALL.key_map(layout)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="RandomTextEncoder"):
        SMALL.pipeline(SMALL.build(), None)


def test_family_fits_the_seam() -> None:
    assert isinstance(SMALL, Family)
    assert SMALL.fingerprint != small(layers=3).fingerprint
    assert SMALL.tokens(Size(64, 96)) == 4 * 6 and SMALL.text_bytes() == 5 * 12 * 4


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("height_px", "width_px"), [(32, 32), (32, 48)])
def test_a_drawn_image_is_that_of_the_stock_pipeline(tmp_path: Path, height_px: int, width_px: int) -> None:
    torch.manual_seed(0)
    kl_autoencoder().save_pretrained(tmp_path / "vae")
    prompt = " A Red circle\n"  # the pipeline cleans it
    t5_text().save_pretrained(tmp_path / "text_encoder")
    tokenizer = word_tokenizer()
    end = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # as T5's: an empty text has one token
    tokenizer.backend_tokenizer.post_processor = end
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    encoder = T5Encoder(
        str(tmp_path), dimension=32, dtype="float32", subfolder="text_encoder", tokenizer_subfolder="tokenizer"
    )
    codec = Autoencoder(str(tmp_path), downscaling=2, subfolder="vae", scaling_factor=0.5)
    family = PixArt(encoder, 16, codec, 8, out_channels=8, layers=2, heads=2, head_dim=8)
    module = TextToImage(family, DDPMEpsilon(), 32, guidance_scale=4.5, sampling_steps=4, generation_chunk_size=1)
    module.configure_model()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    (ours,) = module.generate([ImageRequest("r", prompt, 3, width_px, height_px)])
    module.eval()
    assert module.transformer is not None
    pipeline = family.pipeline(module.transformer, module.objective.scheduler(4))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt,
        **{"num_inference_steps": 4, "guidance_scale": 4.5, "height": height_px, "width": width_px},
        **{"generator": torch.Generator().manual_seed(3), "output_type": "np", "use_resolution_binning": False},
        **{"max_sequence_length": 8, "clean_caption": False},
    ).images[0]
    stock = torch.from_numpy((theirs * 255).round()).permute(2, 0, 1)
    assert ours.shape == stock.shape and int((ours.int() - stock.int()).abs().max()) == 0
    codec.model().register_to_config(shift_factor=0.1)
    with pytest.raises(UserError, match=r"shifts latents by 0\.1"):
        family.pipeline(module.transformer, module.objective.scheduler(4))


def test_texts_are_cleaned_as_the_stock_pipeline_does_and_kept_apart_from_uncleaned_ones() -> None:
    made = small()
    plain, written = made.encode_text(["a red circle"]), made.encode_text(["  A Red circle\n"])
    assert torch.equal(plain.tokens["text"].values, written.tokens["text"].values)
    assert torch.equal(made.encode_text([""]).tokens["text"].values, made.encode_text(["\t"]).tokens["text"].values)
    assert made.text_fingerprint.removesuffix("-lower") == f"{made.text_encoder.fingerprint}-{made.text_length}"
