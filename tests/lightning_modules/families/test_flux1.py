"""FLUX.1 on a tiny model built from configs: the published loss, the stock pipeline's images, other programs' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from evolvedirector.lightning_modules import (
    CLIPEncoder,
    Family,
    FlowMatching,
    Flux1,
    RandomTextEncoder,
    ResolutionFlowMatching,
    T5Encoder,
    TextToImage,
)
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.lightning_modules.families.family import GuidesItself
from evolvedirector.lightning_modules.families.lora_layout import LowRank, lora_in_layout
from evolvedirector.lightning_modules.families.patches import packed, unpacked
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Extras, Size
from tests.lightning_modules.families.lora_files import drawn_in_every_layout, random_lora
from tests.lightning_modules.families.tiny_flux1 import NUMBERS, T5_LENGTH, family, save, scheduler

PROMPT = "a red circle left of a blue star"
SQUARE = Size(32, 32)
BY_SIZE = ResolutionFlowMatching(base_tokens=16, max_tokens=128, equal_steps=True)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("dev"))


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("schnell"), guidance_embeds=False)


def student(made: Flux1, objective: Any, guidance_scale: float = 3.5) -> TextToImage:
    numbers = {"guidance_scale": guidance_scale, "sampling_steps": 4, "generation_chunk_size": 1}
    module = TextToImage(made, objective, 32, condition_dropout=0.0, **numbers)
    module.configure_model()
    return module


@pytest.mark.parametrize("size", [pytest.param(SQUARE, marks=pytest.mark.slow), Size(24, 40)])
@pytest.mark.in_turn("flux1")
def test_one_training_loss_is_that_of_the_published_objective(dev: Path, size: Size) -> None:
    module = student(family(dev, training_guidance=1.5), BY_SIZE)
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    seeds = torch.tensor([5, 9])
    found = module.training_step({"image": image, "prompt": [PROMPT, "two stars"], "sample_seed": seeds}, 0)

    # by hand, on the stock parts: z = s (m + d e' - h), z_t = (1 - t) z + t e, loss = |v' - (e - z)|^2
    stock = FluxPipeline.from_pretrained(dev)
    height, width = size.height_px // 2, size.width_px // 2
    objective = BY_SIZE.at_resolution(height * width // 4)
    draws = draw(seeds, objective, 0.0, (4, height, width), latent=True)
    assert draws.latent_noise is not None
    with torch.no_grad():
        posterior = stock.vae.encode(image.float() / 127.5 - 1).latent_dist
        clean = (posterior.mean + posterior.std * draws.latent_noise - 0.06) * 1.5
        states, pooled, text_ids = stock.encode_prompt([PROMPT, "two stars"], max_sequence_length=T5_LENGTH)
        time = draws.time.view(-1, 1, 1, 1)
        noisy = (1 - time) * clean + time * draws.noise
        velocity = stock.transformer(
            hidden_states=stock._pack_latents(noisy, 2, 4, height, width),
            timestep=draws.time,
            guidance=torch.tensor([1.5, 1.5]),
            pooled_projections=pooled,
            encoder_hidden_states=states,
            txt_ids=text_ids,
            img_ids=stock._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32),
        ).sample
        target = stock._pack_latents(draws.noise - clean, 2, 4, height, width)
        expected = (velocity - target).square().mean()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)
    found.backward()  # every weight learns: ranks wait for the gradient of each
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize("size", [pytest.param(SQUARE, marks=pytest.mark.slow), Size(24, 40)])
@pytest.mark.parametrize("version", ["dev", pytest.param("schnell", marks=pytest.mark.slow)])
@pytest.mark.in_turn("flux1")
def test_one_drawn_image_is_that_of_the_stock_pipeline(
    version: str, size: Size, request: pytest.FixtureRequest
) -> None:
    is_dev = version == "dev"
    made = family(request.getfixturevalue(version), guidance_embeds=is_dev)
    module = student(made, BY_SIZE if is_dev else FlowMatching(equal_steps=True))
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])
    assert module.transformer is not None
    pipeline = made.pipeline(module.transformer.eval(), scheduler(is_dev))
    assert isinstance(pipeline, FluxPipeline)
    stock = drawn(pipeline, size)
    assert ours.shape == stock.shape and int((ours.int() - stock.int()).abs().max()) == 0
    assert ours.unique().numel() > 20  # not a flat picture


def drawn(pipeline: Any, size: Size = SQUARE) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        PROMPT,
        **{"num_inference_steps": 4, "guidance_scale": 3.5, "height": size.height_px, "width": size.width_px},
        **{"generator": torch.Generator().manual_seed(7), "output_type": "np", "max_sequence_length": T5_LENGTH},
    ).images[0]
    return torch.from_numpy((image * 255).round()).permute(2, 0, 1)


@pytest.mark.in_turn("flux1")
def test_guidance_is_an_input_of_dev_and_costs_no_second_run(dev: Path, schnell: Path) -> None:
    made = family(dev)
    assert isinstance(made, GuidesItself) and not made.needs_null(3.5)
    states = made.encode_text([PROMPT])
    trained = made.condition(states, [Size(32, 32)], Extras())
    guided = made.condition(states, [Size(32, 32)], Extras(guidance=3.5))
    assert trained.vectors["guidance"].tolist() == [1.0] and guided.vectors["guidance"].tolist() == [3.5]
    module = student(made, BY_SIZE)
    rows: list[int] = []
    predict = made.predict
    made.predict = lambda *given: rows.append(len(given[1])) or predict(*given)  # type: ignore[method-assign, func-returns-value]
    (image,) = module.generate([ImageRequest("r", PROMPT, 7, 32, 32)])
    assert rows == [1] * 4
    module.guidance_scale = 1.0
    assert not torch.equal(module.generate([ImageRequest("r", PROMPT, 7, 32, 32)])[0], image)
    without = family(schnell, guidance_embeds=False)
    assert "guidance" not in without.condition(without.encode_text([PROMPT]), [Size(32, 32)], Extras()).vectors
    with pytest.raises(ValueError, match="Ask needs_null first"):
        made.guide(image, image, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["double blocks", "queries and values"])
def test_lora_files_of_all_layouts_draw_one_image_unlike_the_base(dev: Path, targets: str, tmp_path: Path) -> None:
    made = family(dev)
    network: Any = made.build().eval()
    pipeline = made.pipeline(network, scheduler(True))
    base = drawn(pipeline)
    # the reader of diffusers knows `linear1` of the single blocks at the published width alone: see the next test
    names = (
        "|".join(end.replace(".", r"\.") for end in made.lora_targets()) if targets == "double blocks" else "to_q|to_v"
    )
    lora = random_lora(network, rf"transformer_blocks\.\d+\..*({names})|single_transformer_blocks\.\d+\.proj_out")
    images = drawn_in_every_layout(made, network, pipeline, lora, tmp_path, drawn)
    assert int((images["diffusers"] - base).abs().max()) > 5
    for layout in ("comfyui", "kohya"):
        assert int((images[layout] - images["diffusers"]).abs().max()) <= 1, layout


def test_fused_projections_of_single_blocks_come_back_at_the_published_width() -> None:
    made = Flux1(RandomPooled(), RandomTextEncoder(4096), RandomCodec(), layers=1, single_layers=1)  # type: ignore[arg-type]
    block = "single_transformer_blocks.0"
    widths = {"attn.to_q": 3072, "attn.to_k": 3072, "attn.to_v": 3072, "proj_mlp": 12288}
    generator = torch.Generator().manual_seed(0)
    lora = {
        f"{block}.{name}": LowRank(
            torch.randn(2, 3072, generator=generator), torch.randn(width, 2, generator=generator), 2.0
        )
        for name, width in widths.items()
    }
    with torch.device("meta"):
        network = made.build()
    for layout in ("comfyui", "kohya"):
        found = FluxPipeline.lora_state_dict(lora_in_layout(lora, made.key_map(layout), network))  # type: ignore[arg-type]
        assert len(found) == 8
        for layer, pair in lora.items():
            torch.testing.assert_close(found[f"transformer.{layer}.lora_A.weight"], pair.down)
            torch.testing.assert_close(found[f"transformer.{layer}.lora_B.weight"], pair.up)
    with pytest.raises(ValueError, match=r"no published name for 'x_embedder'.* Write|layout: diffusers"):
        made.key_map("kohya")("x_embedder.lora_A.weight")
    with pytest.raises(ValueError, match="no tensor of a LoRA"):
        made.key_map("kohya")("x_embedder.weight")


class RandomPooled:
    """Only its numbers are asked for."""

    fingerprint, dimension, pooled_dimension, max_tokens = "pooled", 768, 768, 77


class RandomCodec:
    """Likewise."""

    fingerprint, channels, downscaling, is_random = "codec", 16, 8, True


def test_latents_become_tokens_as_in_the_stock_pipeline_and_back() -> None:
    latents = torch.arange(2 * 4 * 6 * 10.0).view(2, 4, 6, 10)
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 4, 6, 10))
    assert torch.equal(unpacked(packed(latents), 3, 5), latents)


def test_it_says_what_it_is_and_whether_it_would_work(dev: Path, schnell: Path) -> None:
    made = family(dev)
    assert isinstance(made, Family) and list(made.text_encoders) == ["clip", "t5"]
    assert made.fingerprint != family(dev, t5_length=8).fingerprint
    assert made.tokens(Size(32, 48)) == 8 * 12 and made.text_bytes() == (T5_LENGTH * 32 + 8) * 4
    with pytest.raises(ValueError, match="Take 32 x 32 px"):
        made.tokens(Size(34, 32))
    for part in TextToImage(made, BY_SIZE, 32).parts().values():
        part.verify()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Write layers: 2"):
        family(dev, layers=3).build()
    with pytest.raises(ValueError, match=r"guidance_embeds is True.* Write guidance_embeds: False"):
        family(schnell).build()
    with pytest.raises(ValueError, match="3 parts, all even, together head_dim, which is 16"):
        family(dev, axes_dims_rope=(4, 6, 8))
    projected = CLIPEncoder(str(dev), None, 8, None, "float32", "text_encoder", "tokenizer")
    with pytest.raises(ValueError, match="Write projected: false"):
        Flux1(projected, made.t5, made.codec, **NUMBERS)
    masked = T5Encoder(str(dev), None, 32, "float32", "text_encoder_2", "tokenizer_2")
    with pytest.raises(ValueError, match="Write attend_padding: true"):
        Flux1(made.clip, masked, made.codec, **NUMBERS)
    with pytest.raises(ValueError, match="RandomTextEncoder"):
        Flux1(made.clip, RandomTextEncoder(32), made.codec, **NUMBERS).pipeline(torch.nn.Linear(1, 1), None)


def test_blocks_checkpointing_and_lora_targets(dev: Path) -> None:
    made = family(dev, gradient_checkpointing=True)
    network: Any = made.build()
    assert len(made.blocks(network)) == 4 and network.gradient_checkpointing
    stored = load_file(dev / "transformer" / "diffusion_pytorch_model.safetensors")
    assert stored.keys() == network.state_dict().keys()
    assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())
    names = [name for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)]
    found = [name for name in names if name.endswith(tuple(made.lora_targets()))]
    assert len(found) == 2 * 12 + 2 * 3  # blocks of both kinds


@pytest.mark.parametrize(
    ("part", "file", "key"),
    [
        ("transformer", "diffusion_pytorch_model", "proj_out.weight"),
        pytest.param("vae", "diffusion_pytorch_model", "decoder.conv_in.weight", marks=pytest.mark.slow),
        pytest.param("text_encoder", "model", "final_layer_norm.weight", marks=pytest.mark.slow),
        pytest.param("text_encoder_2", "model", "encoder.final_layer_norm.weight", marks=pytest.mark.slow),
    ],
)
def test_weights_that_lack_a_tensor_are_refused_by_its_name(tmp_path: Path, part: str, file: str, key: str) -> None:
    folder = save(tmp_path)
    path = folder / part / f"{file}.safetensors"
    tensors = load_file(path)
    del tensors[key]
    save_file(tensors, path, {"format": "pt"})
    made = family(folder)
    load = {
        "transformer": made.build,
        "vae": made.codec.model,  # type: ignore[attr-defined]
        "text_encoder": made.clip.models,  # type: ignore[attr-defined]
        "text_encoder_2": made.t5.models,  # type: ignore[attr-defined]
    }[part]
    with pytest.raises(ValueError, match=rf"lack .*{key}.* Download or convert"):
        load()
