"""Stable Diffusion 1.x, 2.x and inpainting on tiny models: the published loss, and the stock pipelines' images."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file

from evolvedirector.lightning_modules import DDPM, Autoencoder, CLIPEncoder, Family, StableDiffusion, TextToImage
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.records import FileRef, ImageRequest
from evolvedirector.records.condition import Extras, Size
from tests.lightning_modules.families.tiny_sd import SD_NUMBERS, save_sdxl, save_stable_diffusion, taught

# diffusers converts tensors in a way that numpy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PROMPT = "a red circle left of a blue star"
EPSILON, VELOCITY = DDPM(), DDPM("velocity", sampler="ddim")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd2"), linear_projection=True)


@pytest.fixture(scope="module")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("inpainting"), inpainting=True)


def family(saved: Path, **changes: Any) -> StableDiffusion:
    name = str(saved)
    clip = CLIPEncoder(name, None, 32, None, "float32", "text_encoder", "tokenizer", "last", projected=False)
    codec = Autoencoder(name, downscaling=2, subfolder="vae")
    start = {"pretrained": name, "pretrained_subfolder": "unet"}
    return StableDiffusion(clip, codec, **(SD_NUMBERS | start | changes))


def student(saved: Path, objective: DDPM = EPSILON, **changes: Any) -> TextToImage:
    module = TextToImage(
        family(taught(saved, objective.prediction), **changes),
        objective,
        32,
        guidance_scale=4.5,
        sampling_steps=4,
        generation_chunk_size=1,
        condition_dropout=0.0,
    )
    module.configure_model()
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    return module


def picture(size: Size, seed: int = 1, count: int = 2) -> torch.Tensor:
    return torch.randint(256, (count, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def surroundings(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """A mask whose white part is not aligned to latent pixels, with the two greys around the threshold; a source."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[4:15, 7:20], mask[0, :], mask[1, :] = 255, 127, 128
    return mask, picture(size, 3, 1)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("size", "prediction"),
    [
        (Size(24, 40), "epsilon"),
        (Size(24, 40), "velocity"),
        pytest.param(Size(32, 32), "epsilon", marks=pytest.mark.slow),
        pytest.param(Size(32, 32), "velocity", marks=pytest.mark.slow),
    ],
)
@pytest.mark.in_turn("stable_diffusion")
def test_one_training_loss_is_that_of_the_published_objective(
    saved: Path, second: Path, size: Size, prediction: str
) -> None:
    is_noise = prediction == "epsilon"
    folder, objective = (saved, EPSILON) if is_noise else (second, VELOCITY)
    module = student(folder, objective, linear_projection=not is_noise)
    image, seeds = picture(size), torch.tensor([5, 9])
    found = module.training_step({"image": image, "prompt": [PROMPT, "two stars"], "sample_seed": seeds}, 0)

    # by hand, on the stock parts: z = s (m + d e'), z_t = sqrt(a) z + sqrt(1 - a) e, |e' - e|^2 or |v' - v|^2
    stock = DiffusionPipeline.from_pretrained(folder)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon"
    )
    draws = draw(seeds, objective, 0.0, (4, size.height_px // 2, size.width_px // 2), latent=True)
    assert draws.latent_noise is not None
    steps = draws.time.long()
    with torch.no_grad():
        posterior = stock.vae.encode(image.float() / 127.5 - 1).latent_dist
        clean = (posterior.mean + posterior.std * draws.latent_noise) * 1.5
        states, _ = stock.encode_prompt([PROMPT, "two stars"], "cpu", 1, False)
        output = stock.unet(scheduler.add_noise(clean, draws.noise, steps), steps, states).sample
        target = draws.noise if is_noise else scheduler.get_velocity(clean, draws.noise, steps)
    assert float(found.detach()) == pytest.approx(float((output - target).square().mean()), rel=1e-5)


def drawn_by_stock(module: TextToImage, size: Size, **arguments: Any) -> torch.Tensor:
    assert module.transformer is not None
    pipeline = module.family.pipeline(module.transformer.eval(), module.objective.scheduler(4))
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        PROMPT,
        **{"num_inference_steps": 4, "guidance_scale": 4.5, "height": size.height_px, "width": size.width_px},
        **{"generator": torch.Generator().manual_seed(7), "output_type": "np", **arguments},
    ).images[0]
    return torch.from_numpy((drawn * 255).round()).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "objective"),
    [
        (Size(24, 40), EPSILON),
        (Size(24, 40), VELOCITY),
        pytest.param(Size(32, 32), EPSILON, marks=pytest.mark.slow),
        pytest.param(Size(32, 32), VELOCITY, marks=pytest.mark.slow),
        pytest.param(Size(24, 40), DDPM(sampler="dpm_solver"), marks=pytest.mark.slow),
        pytest.param(Size(24, 40), DDPM("velocity", sampler="dpm_solver"), marks=pytest.mark.slow),
        pytest.param(
            Size(24, 40),
            DDPM("velocity", zero_terminal_snr=True, timestep_spacing="trailing"),
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.in_turn("stable_diffusion")
def test_one_drawn_image_is_that_of_the_stock_pipeline(saved: Path, second: Path, size: Size, objective: DDPM) -> None:
    is_noise = objective.prediction == "epsilon"
    module = student(saved if is_noise else second, objective, linear_projection=not is_noise)
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])
    stock = drawn_by_stock(module, size)
    assert ours.shape == stock.shape and int((ours.int() - stock.int()).abs().max()) == 0
    assert ours.unique().numel() > 20  # not a flat picture


@pytest.mark.in_turn("stable_diffusion")
def test_inpainting_draws_as_the_stock_pipeline_does(painting: Path) -> None:
    size = Size(24, 40)
    module = student(painting, inpainting=True)
    mask, source = surroundings(size)
    files = {"mask": FileRef.of(png(mask), "image/png"), "source": FileRef.of(png(source), "image/png")}
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px, files=files)])
    vae = module.family.codec.model()  # type: ignore[attr-defined]
    # the stock pipeline draws a latent of the source; given the mean, it takes that
    around = torch.from_numpy(source).permute(2, 0, 1)[None].float() / 127.5 - 1
    around = around * (torch.from_numpy(mask) < 128)
    stock = drawn_by_stock(
        module,
        size,
        image=Image.fromarray(source),
        mask_image=Image.fromarray(mask),
        masked_image_latents=vae.encode(around).latent_dist.mean.detach() * 1.5,
    )
    assert int((ours.int() - stock.int()).abs().max()) == 0 and ours.unique().numel() > 20
    other = {**files, "mask": FileRef.of(png(255 - mask), "image/png")}
    (inverse,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px, files=other)])
    assert not torch.equal(ours, inverse)


@pytest.mark.in_turn("stable_diffusion")
def test_inpainting_trains_on_mask_and_masked_source(painting: Path) -> None:
    size = Size(24, 40)
    module = student(painting, inpainting=True)
    mask, source = surroundings(size)
    image, seeds = picture(size), torch.tensor([5, 9])
    masks = torch.from_numpy(np.stack([mask, 255 - mask]))[:, None]
    sources = torch.from_numpy(source).permute(2, 0, 1).expand(2, -1, -1, -1)
    batch = {"image": image, "prompt": [PROMPT, "two stars"], "sample_seed": seeds, "mask": masks, "source": sources}
    found = module.training_step(batch, 0)
    stock = DiffusionPipeline.from_pretrained(painting)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    draws = draw(seeds, EPSILON, 0.0, (4, 12, 20), latent=True)
    assert draws.latent_noise is not None
    steps = draws.time.long()
    with torch.no_grad():
        posterior = stock.vae.encode(image.float() / 127.5 - 1).latent_dist
        clean = (posterior.mean + posterior.std * draws.latent_noise) * 1.5
        hidden = stock.vae.encode((sources.float() / 127.5 - 1) * (masks < 128)).latent_dist.mean * 1.5
        shown = torch.nn.functional.interpolate((masks >= 128).float(), size=(12, 20))
        noisy = scheduler.add_noise(clean, draws.noise, steps)
        states, _ = stock.encode_prompt([PROMPT, "two stars"], "cpu", 1, False)
        output = stock.unet(torch.cat([noisy, shown, hidden], dim=1), steps, states).sample
    assert float(found.detach()) == pytest.approx(float((output - draws.noise).square().mean()), rel=1e-5)
    for wrong in (masks[..., :16], masks / 255):
        with pytest.raises(ValueError, match=r"role 'mask' is .* Scale it"):
            module.training_step({**batch, "mask": wrong}, 0)


def test_it_starts_from_every_weight_or_names_what_is_missing(saved: Path, tmp_path: Path) -> None:
    stock = UNet2DConditionModel.from_pretrained(saved, subfolder="unet").state_dict()
    built: Any = family(saved).build()
    assert all(torch.equal(value, stock[name]) for name, value in built.state_dict().items())
    assert built.config.sample_size == 16 and family(saved, sample_size=24).build().config.sample_size == 24  # type: ignore[union-attr]
    weights = load_file(saved / "unet" / "diffusion_pytorch_model.safetensors")
    shutil.copytree(saved / "unet", tmp_path / "unet")
    del weights["mid_block.resnets.1.conv1.bias"]
    save_file(weights, tmp_path / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack mid_block\.resnets\.1\.conv1\.bias"):
        family(saved, pretrained=str(tmp_path)).build()
    for changes, message in (
        ({"heads": (4, 4)}, r"heads is \[4, 4\].* Write heads: \[2, 2\]"),
        ({"transformer_layers": (1, 1)}, r"Write transformer_layers: \[1, 0\]"),
        ({"linear_projection": True}, "Write linear_projection: False"),
        ({"inpainting": True}, "in_channels 4, and inpainting is true"),
    ):
        with pytest.raises(ValueError, match=message):
            family(saved, **changes).build()


def test_weights_of_another_family_are_refused_by_name(saved: Path, painting: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Write inpainting: true"):
        family(painting).build()
    xl = save_sdxl(tmp_path / "xl")
    with pytest.raises(ValueError, match=r"Write class_path: evolvedirector\.lightning_modules\.SDXL"):
        family(saved, pretrained=str(xl)).build()
    with pytest.raises(ValueError, match=r"those of AutoencoderKL.* write pretrained_subfolder: unet"):
        family(saved, pretrained_subfolder="vae").build()


def test_what_cannot_be_loaded_says_so_before_it_is(saved: Path, tmp_path: Path) -> None:
    sd = family(saved)
    sd.verify()
    for part in (sd.text_encoder, sd.codec):
        part.verify()  # type: ignore[attr-defined]
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (copy / "tokenizer" / name).unlink(missing_ok=True)
    (copy / "unet" / "diffusion_pytorch_model.safetensors").rename(copy / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="has no tokenizer"):
        family(copy).text_encoder.verify()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"has only \.bin files.* save_pretrained"):
        family(copy).verify()
    with pytest.raises(ValueError, match=r"Write layer: last, projected: false"):
        StableDiffusion(CLIPEncoder(str(saved), dimension=32), sd.codec)
    with pytest.raises(ValueError, match="Write a multiple of 32"):
        StableDiffusion(sd.text_encoder, sd.codec, channels=(48, 64, 64, 64))
    with pytest.raises(ValueError, match="heads as channels, here 2"):
        StableDiffusion(sd.text_encoder, sd.codec, channels=(64, 64))
    with pytest.raises(ValueError, match=r"lack text_projection\.weight"):
        CLIPEncoder(str(saved), None, 32, None, "float32", "text_encoder", "tokenizer").models()
    with pytest.raises(ValueError, match="Leave pooled_dimension out"):
        CLIPEncoder(str(saved), dimension=32, pooled_dimension=8, projected=False)


def test_it_says_what_it_is(saved: Path) -> None:
    sd = family(saved, gradient_checkpointing=True)
    assert isinstance(sd, Family) and sd.roles == () and family(saved, inpainting=True).roles == ("mask", "source")
    assert sd.tokens(Size(32, 48)) == 16 * 24 and sd.text_bytes() == 77 * 32 * 4
    assert sd.fingerprint != family(saved, layers_per_level=2).fingerprint
    network: Any = sd.build()
    assert len(sd.blocks(network)) == 2 + 1 + 2 and network.down_blocks[0].gradient_checkpointing
    ours = {id(weight) for block in sd.blocks(network) for weight in block.parameters()}
    rest = {name.split(".")[0] for name, weight in network.named_parameters() if id(weight) not in ours}
    assert rest == {"conv_in", "time_embedding", "conv_norm_out", "conv_out"}
    found = [name for name, part in network.named_modules() if name.endswith(tuple(sd.lora_targets()))]
    assert len(found) == (1 + 1 + 2) * 2 * 4  # attentions down, middle and up, self and cross, projections
    condition = sd.condition(sd.encode_text([PROMPT, ""]), [Size(32, 32)] * 2, Extras())
    assert condition.tokens["text"].mask.all() and not condition.spatial
    uneven = torch.zeros(2, 4, 13, 21)  # does not halve evenly
    assert sd.predict(network, uneven, torch.zeros(2), condition).shape == uneven.shape


@pytest.mark.parametrize("linear_projection", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_checkpoint_names_are_read_back_by_diffusers(saved: Path, second: Path, linear_projection: bool) -> None:
    sd = family(second if linear_projection else saved, linear_projection=linear_projection)
    network: Any = sd.build()
    weights = network.state_dict()
    for layout in ("comfyui", "kohya"):
        named = sd.key_map(layout)  # type: ignore[arg-type]
        checkpoint = {named(name): value for name, value in weights.items()}
        assert "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight" in checkpoint
        again = convert_ldm_unet_checkpoint(checkpoint, network.config)
        assert again.keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in again.items())
    assert sd.key_map("diffusers")("conv_in.weight") == "conv_in.weight"
    with pytest.raises(ValueError, match=r"say conv_in\.weight"):
        sd.key_map("kohya")("unet.conv_in.weight")


def lora_of(module: TextToImage) -> dict[str, torch.Tensor]:
    """A LoRA of rank 4 on all targets, under peft's names."""
    generator = torch.Generator().manual_seed(3)
    targets = tuple(module.family.lora_targets())
    found = {}
    assert module.transformer is not None
    for name, part in module.transformer.named_modules():
        if isinstance(part, torch.nn.Linear) and name.endswith(targets):
            found[f"{name}.lora_A.weight"] = torch.randn(4, part.in_features, generator=generator) * 0.3
            found[f"{name}.lora_B.weight"] = torch.randn(part.out_features, 4, generator=generator) * 0.3
    return found


def check_lora_layouts(module: TextToImage, folder: Path, example: str) -> None:
    """Write one LoRA of alpha 2 and rank 4 in each layout, and draw with each through diffusers."""
    lora = lora_of(module)
    family = module.family
    names = family.key_map("diffusers")
    # diffusers' own layout knows no alpha beside the tensors: B carries alpha / rank
    own = {f"unet.{names(name)}": value * (0.5 if "lora_B" in name else 1) for name, value in lora.items()}
    save_file(own, folder / "diffusers.safetensors")
    for layout in ("kohya", "comfyui"):
        names = family.key_map(layout)  # type: ignore[arg-type]
        theirs = {names(name): value for name, value in lora.items()}
        theirs |= {
            names(name.replace("lora_A.weight", "alpha")): torch.tensor(2.0) for name in lora if "lora_A" in name
        }
        assert example in theirs
        save_file(theirs, folder / f"{layout}.safetensors")
    assert module.transformer is not None
    pipeline = family.pipeline(module.transformer.eval(), module.objective.scheduler(4))
    pipeline.set_progress_bar_config(disable=True)
    drawn = {}
    for layout in ("none", "diffusers", "kohya", "comfyui"):
        if layout != "none":
            pipeline.load_lora_weights(str(folder), weight_name=f"{layout}.safetensors")
            adapted = {name.rsplit(".lora_A")[0] for name, _ in pipeline.unet.named_modules() if ".lora_A" in name}
            assert len(adapted) == len(lora) // 2
        drawn[layout] = pipeline(
            PROMPT,
            **{"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"},
            generator=torch.Generator().manual_seed(7),
        ).images[0]
        pipeline.unload_lora_weights()
    assert np.abs(drawn["diffusers"] - drawn["none"]).max() > 0.02
    np.testing.assert_allclose(drawn["kohya"], drawn["diffusers"], atol=1e-5)
    np.testing.assert_array_equal(drawn["comfyui"], drawn["kohya"])


@pytest.mark.slow
def test_a_lora_in_kohyas_layout_draws_what_it_draws_in_diffusers(saved: Path, tmp_path: Path) -> None:
    example = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight"
    check_lora_layouts(student(saved), tmp_path, example)
