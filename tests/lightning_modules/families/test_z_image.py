"""Z-Image on a tiny model built from configs: the published loss, the stock pipeline's images, LoRA names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import ZImagePipeline
from safetensors.torch import load_file, save_file

from evolvedirector.lightning_modules import (
    Autoencoder,
    Family,
    FlowMatching,
    TextToImage,
    ZImage,
    ZImageQwen3Encoder,
)
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Size
from tests.lightning_modules.families.clean_process import FLOAT_NOISE, levels_apart
from tests.lightning_modules.families.lora_files import drawn_in_every_layout, random_lora
from tests.lightning_modules.families.small_students import stock_image, student_of
from tests.lightning_modules.families.tiny_z_image import LATENT_CHANNELS, NUMBERS, TEXT_WIDTH, save_z_image

PROMPT = "a red circle left of a blue star"
PROMPTS = [PROMPT, "two stars"]
SQUARE = Size(32, 32)
FLOW = FlowMatching(shift=6.0, equal_steps=True)
CALL: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0, "max_sequence_length": 40}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_z_image(tmp_path_factory.mktemp("z_image"), PROMPTS)


@pytest.fixture(scope="module")
def stock(saved: Path) -> Any:
    return ZImagePipeline.from_pretrained(saved)


def encoder(saved: Path, dimension: int = TEXT_WIDTH) -> ZImageQwen3Encoder:
    return ZImageQwen3Encoder(str(saved), None, dimension, "float32", "text_encoder", "tokenizer")


def family(saved: Path, **changes: Any) -> ZImage:
    codec = Autoencoder(str(saved), latent_channels=LATENT_CHANNELS, downscaling=2, subfolder="vae")
    start = {"pretrained": str(saved), "pretrained_subfolder": "transformer", "text_length": 40}
    return ZImage(encoder(saved), codec, **(NUMBERS | start | changes))


def student(saved: Path, guidance_scale: float = 5.0, **changes: Any) -> TextToImage:
    return student_of(family(saved, **changes), FLOW, guidance_scale)


def drawn(pipeline: Any, size: Size = SQUARE, **changes: Any) -> Any:
    return stock_image(pipeline, PROMPT, size, CALL | changes)


@pytest.mark.parametrize("size", [pytest.param(SQUARE, marks=pytest.mark.slow), Size(24, 40)])
@pytest.mark.in_turn("z_image")
def test_one_training_loss_is_that_of_the_published_objective(saved: Path, stock: Any, size: Size) -> None:
    module = student(saved)
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    seeds = torch.tensor([5, 9])
    found = module.training_step({"image": image, "prompt": list(PROMPTS), "sample_seed": seeds}, 0)

    # by hand, on the stock parts: the network reads 1 - t and gives z - e, so that loss = |-v' - (e - z)|^2
    draws = draw(seeds, FLOW, 0.0, (LATENT_CHANNELS, size.height_px // 2, size.width_px // 2), latent=True)
    assert draws.latent_noise is not None
    with torch.no_grad():
        posterior = stock.vae.encode(image.float() / 127.5 - 1).latent_dist
        clean = (posterior.mean + posterior.std * draws.latent_noise - 0.06) * 1.5
        states, _ = stock.encode_prompt(list(PROMPTS), do_classifier_free_guidance=False, max_sequence_length=40)
        time = draws.time.view(-1, 1, 1, 1)
        noisy = (1 - time) * clean + time * draws.noise
        towards_image = stock.transformer(list(noisy.unsqueeze(2).unbind()), 1 - draws.time, states).sample
        velocity = -torch.stack(towards_image).squeeze(2)
        expected = (velocity - (draws.noise - clean)).square().mean()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(  # the stock pipeline's scale is one less
    ("size", "scale"),
    [(Size(24, 40), 5.0), *[pytest.param(SQUARE, scale, marks=pytest.mark.slow) for scale in (5.0, 1.0)]],
)
@pytest.mark.in_turn("z_image")
def test_one_drawn_image_is_that_of_the_stock_pipeline(saved: Path, stock: Any, size: Size, scale: float) -> None:
    module = student(saved, scale)
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])
    assert module.transformer is not None
    pipeline = module.family.pipeline(module.transformer.eval(), stock.scheduler)
    assert isinstance(pipeline, ZImagePipeline)
    theirs = drawn(pipeline, size, guidance_scale=scale - 1)
    assert levels_apart(ours, theirs) < FLOAT_NOISE
    assert ours.unique().numel() > 20  # not a flat picture


def test_texts_are_a_turn_of_a_thinking_chat_without_padding(saved: Path, stock: Any) -> None:
    texts = [PROMPT, ""]
    states, mask = encoder(saved).encode(texts, 40)
    expected, _ = stock.encode_prompt(list(texts), do_classifier_free_guidance=False, max_sequence_length=40)
    assert mask.sum(1).tolist() == [len(part) for part in expected] and mask.sum() < mask.numel()
    for row, part in enumerate(expected):
        torch.testing.assert_close(states[row, : len(part)], part.detach())
    assert not states[~mask].any()
    assert texts == [PROMPT, ""]  # the stock pipeline overwrites a list; nobody else may
    with pytest.raises(AssertionError):
        torch.testing.assert_close(encoder(saved).encode(["two"], 40)[0], encoder(saved).encode(["red"], 40)[0])


def test_an_image_does_not_depend_on_the_texts_beside_it(saved: Path) -> None:
    module = student(saved)
    texts = module.family.encode_text([PROMPT, "two stars"])
    noisy = torch.randn(2, LATENT_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))
    network: Any = module.transformer
    with torch.no_grad():
        both = module.family.predict(network, noisy, torch.tensor([900.0, 100.0]), texts)
        alone = module.family.predict(network, noisy[1:], torch.tensor([100.0]), texts.select([1]))
    torch.testing.assert_close(both[1:], alone)


def test_it_starts_from_every_weight_or_names_what_is_missing(saved: Path, tmp_path: Path) -> None:
    network = family(saved).build()
    published = load_file(saved / "transformer" / "diffusion_pytorch_model.safetensors")
    assert network.state_dict().keys() == published.keys()
    assert all(torch.equal(published[name], part) for name, part in network.state_dict().items())
    shutil.copytree(saved / "transformer", tmp_path / "transformer")
    del published["x_pad_token"]
    save_file(published, tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"lack x_pad_token\. All must be there"):
        family(saved, pretrained=str(tmp_path)).build()


@pytest.mark.slow
def test_a_lora_in_every_layout_draws_as_in_that_of_diffusers(saved: Path, tmp_path: Path) -> None:
    z_image = family(saved)
    pytest.importorskip("peft")
    pipeline = ZImagePipeline.from_pretrained(saved)
    network, without = pipeline.transformer, drawn(pipeline)
    lora = random_lora(network, z_image.lora_targets())
    images = drawn_in_every_layout(z_image, network, pipeline, lora, tmp_path, drawn)
    assert numpy.array_equal(drawn(pipeline), without)
    assert abs(images["diffusers"] - without).max() > 0.02  # it is heard
    assert numpy.array_equal(images["comfyui"], images["diffusers"])
    assert numpy.array_equal(images["kohya"], images["diffusers"])


@pytest.mark.parametrize("half", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.in_turn("z_image")
def test_every_weight_gets_a_gradient_when_blocks_are_recomputed(saved: Path, half: bool) -> None:
    module = student(saved, gradient_checkpointing=True)
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = module.training_step({"image": image, "prompt": [PROMPT], "sample_seed": torch.tensor([1])}, 0)
    loss.backward()
    assert loss.isfinite()
    assert module.transformer is not None
    assert [name for name, weight in module.transformer.named_parameters() if weight.grad is None] == []
    assert len(module.family.blocks(module.transformer)) == 1 + 1 + 2


def test_it_says_what_it_is_and_whether_it_would_work(saved: Path) -> None:
    z_image = family(saved)
    assert isinstance(z_image, Family) and list(z_image.text_encoders) == ["text_encoder"]
    assert z_image.fingerprint != family(saved, text_length=8).fingerprint
    assert z_image.tokens(Size(32, 48)) == 8 * 12 and z_image.text_bytes() == 40 * TEXT_WIDTH * 4
    for part in TextToImage(z_image, FLOW, 32).parts().values():
        part.verify()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"at most 96 x 64 px"):
        z_image.tokens(Size(32, 100))
    with pytest.raises(ValueError, match=r"Write text_length: 96 or less"):
        family(saved, text_length=97)
    with pytest.raises(ValueError, match="sum of axes_dims is head_dim"):
        family(saved, head_dim=20)
    with pytest.raises(ValueError, match="Write layers: 2"):
        family(saved, layers=3).build()
    with pytest.raises(ValueError, match=f"Write dimension: {TEXT_WIDTH}"):
        encoder(saved, 9).verify()


@pytest.mark.slow
def test_the_encoder_may_lie_in_the_folder_of_a_language_model(saved: Path, tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    body = Qwen3Model.from_pretrained(saved / "text_encoder")
    whole = Qwen3ForCausalLM(Qwen3Config.from_pretrained(saved / "text_encoder"))
    whole.model.load_state_dict(body.state_dict())
    whole.save_pretrained(tmp_path / "text_encoder")
    shutil.copytree(saved / "tokenizer", tmp_path / "tokenizer")
    assert torch.equal(encoder(tmp_path).encode([PROMPT], 40)[0], encoder(saved).encode([PROMPT], 40)[0])


def test_a_tokenizer_without_chat_template_is_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "tokenizer", tmp_path / "tokenizer")
    shutil.copytree(saved / "text_encoder", tmp_path / "text_encoder")
    (tmp_path / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        encoder(tmp_path).encode([PROMPT], 8)
