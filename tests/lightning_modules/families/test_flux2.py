"""FLUX.2-klein on a tiny model built from configs: the published loss, the stock pipeline's images, other names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from safetensors.torch import load_file, save_file

from evolvedirector.lightning_modules import (
    Family,
    Flux2Autoencoder,
    Flux2FlowMatching,
    Flux2Klein,
    Flux2Qwen3Encoder,
    RandomTextEncoder,
    ResolutionFlowMatching,
    TextToImage,
)
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.lightning_modules.families.family import GuidesItself
from evolvedirector.lightning_modules.objectives.flux2_flow import flux2_shift_exponent
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Size
from tests.lightning_modules.families.lora_files import drawn_in_every_layout, random_lora
from tests.lightning_modules.families.tiny_flux2 import LAYERS, NUMBERS, TEXT_LENGTH, family, save

PROMPT = "a red circle left of a blue star"
SQUARE = Size(32, 32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("distilled"), distilled=True)


def student(made: Flux2Klein, guidance_scale: float = 3.5) -> TextToImage:
    numbers = {"guidance_scale": guidance_scale, "sampling_steps": 4, "generation_chunk_size": 1}
    module = TextToImage(made, Flux2FlowMatching(), 32, condition_dropout=0.0, **numbers)
    module.configure_model()
    return module


def drawn(pipeline: Any, size: Size = SQUARE, guidance_scale: float = 3.5) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        prompt=PROMPT,
        **{
            "num_inference_steps": 4,
            "guidance_scale": guidance_scale,
            "height": size.height_px,
            "width": size.width_px,
        },
        **{"generator": torch.Generator().manual_seed(7), "output_type": "np", "max_sequence_length": TEXT_LENGTH},
        text_encoder_out_layers=LAYERS,
    ).images[0]
    return torch.from_numpy((image * 255).round()).permute(2, 0, 1)


def scheduler() -> Any:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)


@pytest.mark.parametrize("size", [pytest.param(SQUARE, marks=pytest.mark.slow), Size(24, 40)])
@pytest.mark.in_turn("flux2")
def test_one_training_loss_is_that_of_the_published_objective(base: Path, size: Size) -> None:
    module = student(family(base))
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    seeds = torch.tensor([5, 9])
    found = module.training_step({"image": image, "prompt": [PROMPT, "two stars"], "sample_seed": seeds}, 0)

    # by hand, on the stock parts: z = (pack(m) - mean) / deviation, z_t = (1 - t) z + t e, loss = |v' - (e - z)|^2
    stock = Flux2KleinPipeline.from_pretrained(base)
    height, width = size.height_px // 4, size.width_px // 4
    draws = draw(seeds, Flux2FlowMatching(tokens=height * width), 0.0, (16, height, width), latent=False)
    norm = stock.vae.bn
    with torch.no_grad():
        raw = stock._patchify_latents(stock.vae.encode(image.float() / 127.5 - 1).latent_dist.mode())
        deviation = torch.sqrt(norm.running_var + stock.vae.config.batch_norm_eps).view(1, -1, 1, 1)
        clean = (raw - norm.running_mean.view(1, -1, 1, 1)) / deviation
        states, text_ids = stock.encode_prompt(
            [PROMPT, "two stars"], max_sequence_length=TEXT_LENGTH, text_encoder_out_layers=LAYERS
        )
        time = draws.time.view(-1, 1, 1, 1)
        velocity = stock.transformer(
            hidden_states=stock._pack_latents((1 - time) * clean + time * draws.noise),
            timestep=draws.time,
            encoder_hidden_states=states,
            txt_ids=text_ids,
            img_ids=stock._prepare_latent_ids(clean),
        ).sample
        expected = (velocity - stock._pack_latents(draws.noise - clean)).square().mean()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)
    found.backward()  # every weight learns: ranks wait for the gradient of each
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize("size", [pytest.param(SQUARE, marks=pytest.mark.slow), Size(24, 40)])
@pytest.mark.parametrize("version", ["base", pytest.param("distilled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("guidance_scale", [3.5, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.in_turn("flux2")
def test_one_drawn_image_is_that_of_the_stock_pipeline(
    version: str, size: Size, guidance_scale: float, request: pytest.FixtureRequest
) -> None:
    made = family(request.getfixturevalue(version), distilled=version == "distilled")
    module = student(made, guidance_scale)
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])
    assert module.transformer is not None
    pipeline = made.pipeline(module.transformer.eval(), scheduler())
    assert isinstance(pipeline, Flux2KleinPipeline) and pipeline.config.is_distilled == (version == "distilled")
    stock = drawn(pipeline, size, guidance_scale)
    assert ours.shape == stock.shape and int((ours.int() - stock.int()).abs().max()) == 0
    assert ours.unique().numel() > 20  # not a flat picture


def test_guidance_is_that_of_the_base_alone(base: Path) -> None:
    made = family(base)
    assert isinstance(made, GuidesItself)
    assert made.needs_null(1.5) and not made.needs_null(1.0) and not made.needs_null(0.5)
    assert not family(base, distilled=True).needs_null(3.5)
    assert float(made.guide(torch.tensor(3.0), torch.tensor(1.0), 2.0)) == 5.0
    assert made.fingerprint != family(base, distilled=True).fingerprint


def test_a_distilled_pipeline_is_not_taken_for_the_base(base: Path, distilled: Path) -> None:
    with pytest.raises(ValueError, match=r"distilled is False.* Write distilled: true"):
        family(distilled).build()
    with pytest.raises(ValueError, match=r"distilled is True.* Write distilled: false"):
        family(base, distilled=True).build()


@pytest.mark.slow
def test_the_prompt_reaches_the_image_and_padding_is_read(base: Path) -> None:
    made = family(base)
    states = made.encode_text([PROMPT, "two stars"])
    assert states.tokens["text"].values.shape == (2, TEXT_LENGTH, 24) and states.tokens["text"].mask.all()
    module = student(made)
    first, second = module.generate([ImageRequest("r", text, 7, 32, 32) for text in (PROMPT, "two stars")])
    assert not torch.equal(first, second)
    longer = family(base, text_length=TEXT_LENGTH + 8)
    assert not torch.equal(student(longer).generate([ImageRequest("r", PROMPT, 7, 32, 32)])[0], first)


@pytest.mark.parametrize("steps", [4, 10, 50, 200])
def test_the_shift_follows_tokens_and_steps_as_in_the_stock_pipeline(steps: int) -> None:
    for tokens in (16, 1024, 4096, 4300, 4301, 9000):
        assert flux2_shift_exponent(tokens, steps) == compute_empirical_mu(tokens, steps)
    times = Flux2FlowMatching().at_resolution(1024).scheduler(steps).timesteps
    assert len(times) == steps and float(times[0]) == 1000.0
    # training follows the line of 200 steps, which is FLUX.1's
    ours, flux1 = Flux2FlowMatching(tokens=1024), ResolutionFlowMatching(tokens=1024)
    drawn_times = [part.draw_time(torch.Generator().manual_seed(steps)) for part in (ours, flux1)]
    assert drawn_times[0] == pytest.approx(drawn_times[1], abs=1e-4)
    with pytest.raises(ValueError, match=r"Write shift: 1\.0"):
        Flux2FlowMatching(shift=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["all", "queries and values"])
def test_lora_files_of_all_layouts_draw_one_image_unlike_the_base(base: Path, targets: str, tmp_path: Path) -> None:
    made = family(base)
    network: Any = made.build().eval()
    pipeline = made.pipeline(network, scheduler())
    before = drawn(pipeline)
    every = [*made.lora_targets(), "attn.add_k_proj", "ff.linear_in"]
    lora = random_lora(network, every if targets == "all" else ["attn.to_q", "attn.to_v"])
    images = drawn_in_every_layout(made, network, pipeline, lora, tmp_path, drawn)
    assert int((images["diffusers"] - before).abs().max()) > 5
    for layout in ("comfyui", "kohya"):
        assert int((images[layout] - images["diffusers"]).abs().max()) <= 1, layout


def test_latents_have_zero_mean_and_unit_deviation_by_the_batch_norm_and_come_back(base: Path) -> None:
    codec = Flux2Autoencoder(str(base), latent_channels=4, downscaling=4, subfolder="vae")
    raw = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))
    normalised = codec.normalise(raw)
    norm = codec.model().bn
    torch.testing.assert_close(normalised, norm(Flux2KleinPipeline._patchify_latents(raw)))
    assert normalised.shape == (2, codec.channels, 3, 5)
    torch.testing.assert_close(codec._scale.restore(normalised), raw)
    image = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = codec.encode(image)
    assert posterior.deviation is None and posterior.mean.shape == (1, 4, 12, 20)
    assert codec.decode(codec.normalise(posterior.mean)).shape == image.shape
    with pytest.raises(ValueError, match="Write latent_channels: 4, downscaling: 4"):
        Flux2Autoencoder(str(base), subfolder="vae").verify()


def test_it_says_what_it_is_and_whether_it_would_work(base: Path) -> None:
    made = family(base)
    assert isinstance(made, Family) and list(made.text_encoders) == ["text_encoder"]
    assert made.tokens(Size(32, 48)) == 8 * 12 and made.text_bytes() == TEXT_LENGTH * 24 * 4
    with pytest.raises(ValueError, match="Take 32 x 32 px"):
        made.tokens(Size(34, 32))
    for part in TextToImage(made, Flux2FlowMatching(), 32).parts().values():
        part.verify()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Write single_layers: 2"):
        family(base, single_layers=3).build()
    with pytest.raises(ValueError, match="4 parts"):
        family(base, axes_dims_rope=(4, 4, 8))
    with pytest.raises(ValueError, match="has 4 layers"):
        Flux2Qwen3Encoder(str(base), None, 24, (1, 2, 5), "float32", "text_encoder", "tokenizer").verify()
    with pytest.raises(ValueError, match="Write dimension: 24"):
        Flux2Qwen3Encoder(str(base), None, 16, LAYERS, "float32", "text_encoder", "tokenizer").verify()
    with pytest.raises(ValueError, match="RandomTextEncoder and Flux2Autoencoder"):
        Flux2Klein(RandomTextEncoder(24), made.codec, **NUMBERS).pipeline(torch.nn.Linear(1, 1), None)


def test_blocks_checkpointing_and_lora_targets(base: Path) -> None:
    made = family(base, gradient_checkpointing=True)
    network: Any = made.build()
    assert len(made.blocks(network)) == 4 and network.gradient_checkpointing
    stored = load_file(base / "transformer" / "diffusion_pytorch_model.safetensors")
    assert stored.keys() == network.state_dict().keys()
    assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())
    names = [name for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)]
    found = [name for name in names if name.endswith(tuple(made.lora_targets()))]
    assert len(found) == 2 * 4 + 2 * 2  # blocks of both kinds


def test_missing_templates_tokenizers_and_tensors_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path)
    made = family(folder)
    made.text_encoder.verify()  # type: ignore[attr-defined]
    for file in (folder / "tokenizer").glob("chat_template*"):
        file.unlink()
    config = folder / "tokenizer" / "tokenizer_config.json"
    kept = json.loads(config.read_text())
    kept.pop("chat_template", None)
    config.write_text(json.dumps(kept))
    for refused in (made.text_encoder.verify, made.text_encoder.models):  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"no chat template.* with its chat_template\.jinja"):
            refused()
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer"):
        made.text_encoder.verify()  # type: ignore[attr-defined]
    made = family(folder)  # anew: the encoder's model was loaded above
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"only \.bin files.* with save_pretrained"):
        made.verify()
    weights.with_suffix(".bin").rename(weights)
    for part, file, key in (
        ("transformer", "diffusion_pytorch_model", "proj_out.weight"),
        ("vae", "diffusion_pytorch_model", "bn.running_mean"),  # without it, latents would not be normalised
        ("text_encoder", "model", "model.layers.2.mlp.up_proj.weight"),
    ):
        path = folder / part / f"{file}.safetensors"
        tensors = load_file(path)
        del tensors[key]
        save_file(tensors, path, {"format": "pt"})
        load = {"transformer": made.build, "vae": made.codec.model, "text_encoder": made.text_encoder.models}[part]  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=rf"lack .*{key}.* Download or convert"):
            load()
