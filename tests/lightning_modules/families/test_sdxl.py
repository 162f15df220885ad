"""SDXL on a tiny model: the published loss with its six numbers, and the stock pipeline's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from evolvedirector.lightning_modules import DDPM, SDXL, Autoencoder, CLIPEncoder, Family, TextToImage
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Extras, Size
from tests.lightning_modules.families.test_stable_diffusion import (
    check_lora_layouts,
    drawn_by_stock,
    picture,
)
from tests.lightning_modules.families.tiny_sd import XL_NUMBERS, save_sdxl, save_stable_diffusion, taught

# diffusers converts tensors in a way that numpy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NOISE = DDPM()
PROMPT = "a red circle left of a blue star"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdxl(tmp_path_factory.mktemp("sdxl"))


def family(saved: Path, **changes: Any) -> SDXL:
    name = str(saved)
    clip_l = CLIPEncoder(name, None, 8, None, "float32", "text_encoder", "tokenizer", projected=False)
    clip_g = CLIPEncoder(name, None, 20, 32, "float32", "text_encoder_2", "tokenizer_2")
    codec = Autoencoder(name, downscaling=2, subfolder="vae")
    start = {"pretrained": name, "pretrained_subfolder": "unet"}
    return SDXL(clip_l, clip_g, codec, **(XL_NUMBERS | start | changes))


@pytest.fixture(autouse=True)
def one_text_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the stock pipeline does: in a chunk of 16 the projected vector differs by 2e-7, one pixel by 1 of 255."""
    monkeypatch.setattr("evolvedirector.lightning_modules.text_cache.ENCODE_CHUNK", 1)


def student(saved: Path, objective: DDPM = NOISE, **changes: Any) -> TextToImage:
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


@pytest.mark.parametrize(
    ("prediction", "knows_cuts"),
    [("velocity", True), ("epsilon", False)],
)
@pytest.mark.in_turn("sdxl")
def test_one_training_loss_is_that_of_the_published_objective(saved: Path, prediction: str, knows_cuts: bool) -> None:
    size, objective = Size(24, 40), DDPM(prediction)  # type: ignore[arg-type]
    module = student(saved, objective)
    image, seeds = picture(size), torch.tensor([5, 9])
    batch: dict[str, Any] = {"image": image, "prompt": [PROMPT, "two stars"], "sample_seed": seeds}
    ids = torch.tensor([[24, 40, 0, 0, 24, 40.0]] * 2)
    if knows_cuts:
        batch |= {"original_size_px": torch.tensor([[100, 90], [64, 64]])}
        batch |= {"crop_top_left_px": torch.tensor([[3, 0], [0, 7]])}
        ids[:, :4] = torch.tensor([[100, 90, 3, 0], [64, 64, 0, 7]])
    found = module.training_step(batch, 0)

    stock = DiffusionPipeline.from_pretrained(saved)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    draws = draw(seeds, objective, 0.0, (4, 12, 20), latent=True)
    assert draws.latent_noise is not None
    steps = draws.time.long()
    with torch.no_grad():
        posterior = stock.vae.encode(image.float() / 127.5 - 1).latent_dist
        clean = (posterior.mean + posterior.std * draws.latent_noise) * 1.5
        states, _, pooled, _ = stock.encode_prompt(
            [PROMPT, "two stars"], None, "cpu", do_classifier_free_guidance=False
        )
        added = {"text_embeds": pooled, "time_ids": ids}
        noisy = scheduler.add_noise(clean, draws.noise, steps)
        output = stock.unet(noisy, steps, states, added_cond_kwargs=added).sample
        target = draws.noise if prediction == "epsilon" else scheduler.get_velocity(clean, draws.noise, steps)
    assert float(found.detach()) == pytest.approx(float((output - target).square().mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("size", "objective"),
    [
        (Size(24, 40), DDPM()),
        pytest.param(Size(32, 32), DDPM("velocity"), marks=pytest.mark.slow),
        pytest.param(Size(24, 40), DDPM(sampler="ddim"), marks=pytest.mark.slow),
    ],
)
@pytest.mark.in_turn("sdxl")
def test_one_drawn_image_is_that_of_the_stock_pipeline(saved: Path, size: Size, objective: DDPM) -> None:
    module = student(saved, objective)
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])
    stock = drawn_by_stock(module, size)
    assert ours.shape == stock.shape and int((ours.int() - stock.int()).abs().max()) == 0
    assert ours.unique().numel() > 20


@pytest.mark.in_turn("sdxl")
def test_an_empty_prompt_is_zeros_unless_it_is_to_be_encoded(saved: Path) -> None:
    zeros, encoded = family(saved), family(saved, zeros_for_empty_prompt=False)
    states, words = zeros.encode_text(["", PROMPT]), encoded.encode_text(["", PROMPT])
    assert not states.tokens["text"].values[0].any() and not states.vectors["pooled"][0].any()
    assert words.tokens["text"].values[0].any() and words.vectors["pooled"][0].any()
    assert torch.equal(states.tokens["text"].values[1], words.tokens["text"].values[1])
    assert zeros.text_fingerprint != encoded.text_fingerprint
    module = student(saved, zeros_for_empty_prompt=False)
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, 32, 32)])
    assert int((ours.int() - drawn_by_stock(module, Size(32, 32)).int()).abs().max()) == 0


@pytest.mark.in_turn("sdxl")
def test_the_size_of_the_original_reaches_the_network(saved: Path) -> None:
    xl = family(saved)
    network = xl.build()
    states = xl.encode_text([PROMPT])
    noisy, time = torch.zeros(1, 4, 16, 16), torch.tensor([500.0])
    first, second = (
        xl.predict(network, noisy, time, xl.condition(states, [Size(32, 32)], extras))
        for extras in (Extras(), Extras(original_size_px=torch.tensor([[512, 512]])))
    )
    assert not torch.equal(first, second)


def test_it_says_what_it_is_and_refuses_what_does_not_fit(saved: Path, tmp_path: Path) -> None:
    xl = family(saved)
    assert isinstance(xl, Family) and list(xl.text_encoders) == ["clip_l", "clip_g"]
    assert xl.tokens(Size(32, 48)) == 16 * 24 and xl.text_bytes() == (77 * 28 + 32) * 4
    for part in TextToImage(xl, DDPM(), 32).parts().values():
        part.verify()  # type: ignore[attr-defined]
    network: Any = xl.build()
    stock = UNet2DConditionModel.from_pretrained(saved, subfolder="unet").state_dict()
    assert all(torch.equal(value, stock[name]) for name, value in network.state_dict().items())
    assert len(xl.blocks(network)) == 3 + 1 + 3
    assert SDXL(xl.clip_l, xl.clip_g, xl.codec, **XL_NUMBERS).build().config.projection_class_embeddings_input_dim == 80  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"Write transformer_layers: \[0, 1, 2\]"):
        family(saved, transformer_layers=(0, 2, 10)).build()
    with pytest.raises(ValueError, match="Write size_embed_dim: 8"):
        family(saved, size_embed_dim=256).build()
    with pytest.raises(ValueError, match=r"clip_l has layer penultimate and projected True.* projected: false"):
        SDXL(xl.clip_g, xl.clip_g, xl.codec)
    other = save_stable_diffusion(tmp_path / "sd")
    with pytest.raises(ValueError, match=r"Write class_path: evolvedirector\.lightning_modules\.StableDiffusion"):
        family(saved, pretrained=str(other)).build()


@pytest.mark.in_turn("sdxl")
def test_checkpoint_names_are_read_back_by_diffusers(saved: Path) -> None:
    xl = family(saved)
    network: Any = xl.build()
    named, weights = xl.key_map("comfyui"), network.state_dict()
    checkpoint = {named(name): value for name, value in weights.items()}
    assert "model.diffusion_model.label_emb.0.0.weight" in checkpoint
    again = convert_ldm_unet_checkpoint(checkpoint, network.config)
    assert again.keys() == weights.keys() and all(torch.equal(value, weights[name]) for name, value in again.items())


@pytest.mark.slow
def test_a_lora_in_kohyas_layout_draws_what_it_draws_in_diffusers(saved: Path, tmp_path: Path) -> None:
    # the names of the real network: level 1, first pair of convolutions, is input block 4
    example = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0.lora_down.weight"
    check_lora_layouts(student(saved), tmp_path, example)
