"""Qwen-Image on a tiny model built from configs: the published loss, the stock pipeline's images, LoRA names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import QwenImagePipeline
from safetensors.torch import load_file, save_file

from evolvedirector.lightning_modules import (
    Autoencoder,
    Family,
    QwenAutoencoder,
    QwenImage,
    QwenVLEncoder,
    ResolutionFlowMatching,
    TextToImage,
)
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.lightning_modules.families.family import GuidesItself
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Size
from tests.lightning_modules.families.clean_process import FLOAT_NOISE, levels_apart
from tests.lightning_modules.families.lora_files import drawn_in_every_layout, random_lora
from tests.lightning_modules.families.small_students import stock_image, student_of
from tests.lightning_modules.families.tiny_qwen_image import (
    LATENT_CHANNELS,
    NUMBERS,
    TEXT_WIDTH,
    save_qwen_image,
)

PROMPT = "a red circle left of a blue star"
PROMPTS = [PROMPT, "two stars"]
SQUARE = Size(32, 32)
FLOW = ResolutionFlowMatching(
    base_tokens=4, max_tokens=64, base_shift=0.5, max_shift=0.9, equal_steps=True, terminal_time=0.02
)
CALL: dict[str, Any] = {"negative_prompt": " ", "num_inference_steps": 4, "true_cfg_scale": 4.0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen_image(tmp_path_factory.mktemp("qwen_image"), PROMPTS)


@pytest.fixture(scope="module")
def stock(saved: Path) -> Any:
    pipeline = QwenImagePipeline.from_pretrained(saved)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def family(saved: Path, **changes: Any) -> QwenImage:
    name = str(saved)
    encoder = QwenVLEncoder(name, None, TEXT_WIDTH, "float32", "text_encoder", "tokenizer")
    codec = QwenAutoencoder(name, latent_channels=LATENT_CHANNELS, subfolder="vae")
    start = {"pretrained": name, "pretrained_subfolder": "transformer", "text_length": 24}
    return QwenImage(encoder, codec, **(NUMBERS | start | changes))


def student(saved: Path, guidance_scale: float = 4.0, **changes: Any) -> TextToImage:
    return student_of(family(saved, **changes), FLOW, guidance_scale)


@pytest.mark.parametrize("size", [pytest.param(SQUARE, marks=pytest.mark.slow), Size(16, 48)])
@pytest.mark.in_turn("qwen_image")
def test_one_training_loss_is_that_of_the_published_objective(saved: Path, stock: Any, size: Size) -> None:
    module = student(saved)
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    seeds = torch.tensor([5, 9])
    found = module.training_step({"image": image, "prompt": list(PROMPTS), "sample_seed": seeds}, 0)

    # by hand, on the stock parts: z = (raw - m) / d per channel, z_t = (1 - t) z + t e, loss = |v' - (e - z)|^2
    rows, columns = size.height_px // 8, size.width_px // 8
    shifted = FLOW.at_resolution(rows * columns // 4)
    draws = draw(seeds, shifted, 0.0, (LATENT_CHANNELS, rows, columns), latent=True)
    assert draws.latent_noise is not None
    with torch.no_grad():
        posterior = stock.vae.encode((image.float() / 127.5 - 1).unsqueeze(2)).latent_dist
        raw = posterior.mean[:, :, 0] + posterior.std[:, :, 0] * draws.latent_noise
        config = stock.vae.config
        mean, deviation = (torch.tensor(part).view(-1, 1, 1) for part in (config.latents_mean, config.latents_std))
        clean = (raw - mean) / deviation
        states, mask = stock.encode_prompt(list(PROMPTS))
        time = draws.time.view(-1, 1, 1, 1)
        noisy = (1 - time) * clean + time * draws.noise
        velocity = stock.transformer(
            hidden_states=stock._pack_latents(noisy, 2, LATENT_CHANNELS, rows, columns),
            timestep=draws.time,
            encoder_hidden_states=states,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, rows // 2, columns // 2)]] * 2,
        ).sample
        target = stock._pack_latents(draws.noise - clean, 2, LATENT_CHANNELS, rows, columns)
        expected = (velocity - target).square().mean()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("size", "scale"),
    [(Size(16, 48), 4.0), *[pytest.param(SQUARE, scale, marks=pytest.mark.slow) for scale in (4.0, 1.0)]],
)
@pytest.mark.in_turn("qwen_image")
def test_one_drawn_image_is_that_of_the_stock_pipeline(saved: Path, stock: Any, size: Size, scale: float) -> None:
    module = student(saved, scale)
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])
    assert module.transformer is not None
    pipeline = module.family.pipeline(module.transformer.eval(), stock.scheduler)
    assert isinstance(pipeline, QwenImagePipeline)
    theirs = drawn(pipeline, size, true_cfg_scale=scale, negative_prompt=" " if scale > 1 else None)
    assert levels_apart(ours, theirs) < FLOAT_NOISE
    assert ours.unique().numel() > 20  # not a flat picture


def drawn(pipeline: Any, size: Size = SQUARE, **changes: Any) -> Any:
    return stock_image(pipeline, PROMPT, size, CALL | changes)


def test_the_prompt_stands_in_its_frame(saved: Path, stock: Any) -> None:
    states, mask = QwenVLEncoder(str(saved), None, TEXT_WIDTH, "float32", "text_encoder", "tokenizer").encode(
        [PROMPT, " "], 24
    )
    expected, real = stock.encode_prompt([PROMPT, " "])
    torch.testing.assert_close(states[:, : expected.shape[1]], expected.detach())
    assert mask.sum(1).tolist() == real.sum(1).tolist() == [8 + 5, 1 + 5]  # five tokens follow the prompt
    assert not states[1, 6:].any()
    qwen = family(saved)
    null = qwen.encode_text([""]).tokens["text"].values
    assert torch.equal(null, qwen.encode_text([" "]).tokens["text"].values)  # the null prompt of the stock pipeline


def test_long_prompts_are_cut_as_the_stock_pipeline_cuts_them(saved: Path, stock: Any) -> None:
    encoder = QwenVLEncoder(str(saved), None, TEXT_WIDTH, "float32", "text_encoder", "tokenizer")
    states, _ = encoder.encode([PROMPT], 6)
    torch.testing.assert_close(states, stock.encode_prompt([PROMPT], max_sequence_length=6)[0].detach())


def test_guidance_keeps_the_norm_of_every_token(saved: Path) -> None:
    qwen = family(saved)
    assert isinstance(qwen, GuidesItself) and qwen.needs_null(1.5) and not qwen.needs_null(1.0)
    conditional, null = torch.randn(2, 1, 4, 2, 4, generator=torch.Generator().manual_seed(0)).unbind()
    guided = qwen.guide(conditional, null, 4.0)
    plain = null + 4 * (conditional - null)
    for column in (0, 2):
        token, before = (part[:, :, :, column : column + 2] for part in (guided, conditional))
        torch.testing.assert_close(token.norm(), before.norm())
        ratio = token / plain[:, :, :, column : column + 2]
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))


@pytest.mark.parametrize("half", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.in_turn("qwen_image")
def test_every_weight_that_is_trained_gets_a_gradient(saved: Path, half: bool) -> None:
    module = student(saved, gradient_checkpointing=True)
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = module.training_step({"image": image, "prompt": [PROMPT], "sample_seed": torch.tensor([1])}, 0)
    loss.backward()
    assert loss.isfinite()
    assert module.transformer is not None
    weights = dict(module.transformer.named_parameters())
    frozen = [name for name, weight in weights.items() if not weight.requires_grad]
    assert len(frozen) == 6 and all(name.startswith("transformer_blocks.1.") for name in frozen)
    assert [name for name, weight in weights.items() if weight.requires_grad and weight.grad is None] == []


def test_it_starts_from_every_weight_or_names_what_is_missing(saved: Path, tmp_path: Path) -> None:
    network = family(saved).build()
    published = load_file(saved / "transformer" / "diffusion_pytorch_model.safetensors")
    assert network.state_dict().keys() == published.keys()
    assert all(torch.equal(published[name], part) for name, part in network.state_dict().items())
    shutil.copytree(saved / "transformer", tmp_path / "transformer")
    del published["proj_out.bias"]
    save_file(published, tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"lack proj_out\.bias\. All must be there"):
        family(saved, pretrained=str(tmp_path)).build()
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "transformer" / "model.bin")
    with pytest.raises(ValueError, match=r"only \.bin files"):
        family(saved, pretrained=str(tmp_path)).verify()


@pytest.mark.slow
def test_older_config_files_may_have_more_keys(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "transformer", tmp_path / "transformer")
    file = tmp_path / "transformer" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"pooled_projection_dim": 768}))
    family(saved, pretrained=str(tmp_path)).build()
    file.write_text(json.dumps(config | {"zero_cond_t": True}))
    with pytest.raises(ValueError, match="zero_cond_t: true, a condition beside text and noise"):
        family(saved, pretrained=str(tmp_path)).build()


@pytest.mark.slow
def test_a_lora_in_every_layout_draws_as_in_that_of_diffusers(saved: Path, tmp_path: Path) -> None:
    qwen = family(saved)
    pytest.importorskip("peft")
    pipeline = QwenImagePipeline.from_pretrained(saved)
    network, without = pipeline.transformer, drawn(pipeline)
    lora = random_lora(network, qwen.lora_targets())
    images = drawn_in_every_layout(qwen, network, pipeline, lora, tmp_path, drawn)
    assert numpy.array_equal(drawn(pipeline), without)
    assert abs(images["diffusers"] - without).max() > 0.02  # it is heard
    assert numpy.array_equal(images["comfyui"], images["diffusers"])
    assert numpy.array_equal(images["kohya"], images["diffusers"])


def test_only_lora_tensors_have_foreign_names(saved: Path) -> None:
    qwen = family(saved)
    assert qwen.key_map("diffusers")("proj_out.weight") == "proj_out.weight"
    with pytest.raises(ValueError, match=r"'proj_out\.weight' is no LoRA tensor"):
        qwen.key_map("comfyui")("proj_out.weight")


def test_it_says_what_it_is_and_whether_it_would_work(saved: Path, tmp_path: Path) -> None:
    qwen = family(saved)
    assert isinstance(qwen, Family) and list(qwen.text_encoders) == ["text_encoder"]
    assert qwen.fingerprint != family(saved, text_length=8).fingerprint
    assert qwen.tokens(Size(32, 48)) == 2 * 3 and qwen.text_bytes() == 24 * TEXT_WIDTH * 4
    assert len(qwen.blocks(qwen.build())) == 2
    for part in TextToImage(qwen, FLOW, 32).parts().values():
        part.verify()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="patches of 16 px"):
        qwen.check_image_size(24)
    with pytest.raises(ValueError, match="Write layers: 2"):
        family(saved, layers=3).build()
    with pytest.raises(ValueError, match="together head_dim, which is"):
        family(saved, head_dim=20)
    with pytest.raises(ValueError, match=f"Write dimension: {TEXT_WIDTH}"):
        QwenVLEncoder(str(saved), None, 9, "float32", "text_encoder", "tokenizer").verify()
    with pytest.raises(ValueError, match=r"Qwen2\.5-VL text encoder has no tokenizer_config\.json"):
        QwenVLEncoder(str(saved), None, TEXT_WIDTH, "float32", "text_encoder").verify()
    with pytest.raises(ValueError, match="latent_channels: 4, downscaling: 8"):
        QwenAutoencoder(str(saved), subfolder="vae").verify()
    other = QwenImage(qwen.text_encoder, Autoencoder(str(saved), latent_channels=4, subfolder="vae"), **NUMBERS)
    with pytest.raises(ValueError, match=r"Draw with TextToImage\.generate"):
        other.pipeline(torch.nn.Module(), None)
