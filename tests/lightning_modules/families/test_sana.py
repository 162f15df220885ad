"""Sana on a tiny model built from configs: the published loss, and the stock pipeline's images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline
from safetensors.torch import load_file, save_file

from evolvedirector.lightning_modules import (
    Autoencoder,
    DeepCompressionAutoencoder,
    DPMFlowMatching,
    Family,
    FlowMatching,
    Gemma2Encoder,
    Sana,
    TextToImage,
)
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Size
from tests.lightning_modules.families.clean_process import FLOAT_NOISE, levels_apart
from tests.lightning_modules.families.tiny_sana import INSTRUCTION, LATENT_CHANNELS, NUMBERS, TEXT_WIDTH, save_sana

PROMPT = "a red circle left of a blue star"
PROMPTS = [PROMPT, " Two Stars "]
LENGTH = 40
CALL: dict[str, Any] = {
    **{"num_inference_steps": 4, "guidance_scale": 4.5, "max_sequence_length": LENGTH},
    **{"use_resolution_binning": False, "complex_human_instruction": INSTRUCTION},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sana(tmp_path_factory.mktemp("sana"))


@pytest.fixture(scope="module")
def stock(saved: Path) -> Any:
    return SanaPipeline.from_pretrained(saved)


def encoder(saved: Path, instruction: list[str] | None = INSTRUCTION, dimension: int = TEXT_WIDTH) -> Gemma2Encoder:
    return Gemma2Encoder(str(saved), None, dimension, "float32", "text_encoder", "tokenizer", instruction)


def family(saved: Path, **changes: Any) -> Sana:
    codec = DeepCompressionAutoencoder(str(saved), latent_channels=LATENT_CHANNELS, subfolder="vae")
    start = {"pretrained": str(saved), "pretrained_subfolder": "transformer", "text_length": LENGTH}
    return Sana(encoder(saved), codec, **(NUMBERS | start | changes))


def student(saved: Path, objective: Any = None, guidance_scale: float = 4.5, **changes: Any) -> TextToImage:
    module = TextToImage(
        family(saved, **changes),
        objective or DPMFlowMatching(shift=3.0),
        64,
        **{"guidance_scale": guidance_scale, "sampling_steps": 4, "generation_chunk_size": 1, "condition_dropout": 0.0},
    )
    module.configure_model()
    return module


def drawn(pipeline: Any, size: Size, **changes: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    call = CALL | {"height": size.height_px, "width": size.width_px} | changes
    return pipeline(PROMPT, **call, generator=torch.Generator().manual_seed(7), output_type="np").images[0]


@pytest.mark.parametrize("size", [pytest.param(Size(64, 64), marks=pytest.mark.slow), Size(32, 96)])
@pytest.mark.in_turn("sana")
def test_one_training_loss_is_that_of_the_published_objective(saved: Path, stock: Any, size: Size) -> None:
    module = student(saved)
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    seeds = torch.tensor([5, 9])
    found = module.training_step({"image": image, "prompt": list(PROMPTS), "sample_seed": seeds}, 0)

    # by hand, on the stock parts: z = s raw, z_t = (1 - t) z + t e, loss = |v' - (e - z)|^2
    draws = draw(seeds, FlowMatching(), 0.0, (LATENT_CHANNELS, size.height_px // 32, size.width_px // 32), latent=False)
    with torch.no_grad():
        clean = stock.vae.encode(image.float() / 127.5 - 1).latent * 0.41407
        states, mask, _, _ = stock.encode_prompt(
            list(PROMPTS), False, max_sequence_length=LENGTH, complex_human_instruction=INSTRUCTION
        )
        time = draws.time.view(-1, 1, 1, 1)
        velocity = stock.transformer(
            (1 - time) * clean + time * draws.noise,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=draws.time * 1000,
        ).sample
        expected = (velocity - (draws.noise - clean)).square().mean()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("size", "scale", "solver"),
    [
        (Size(32, 96), 4.5, "dpm"),
        pytest.param(Size(64, 64), 4.5, "dpm", marks=pytest.mark.slow),
        pytest.param(Size(64, 64), 1.0, "dpm", marks=pytest.mark.slow),
        pytest.param(Size(32, 96), 4.5, "euler", marks=pytest.mark.slow),
    ],
)
@pytest.mark.in_turn("sana")
def test_one_drawn_image_is_that_of_the_stock_pipeline(
    saved: Path, stock: Any, size: Size, scale: float, solver: str
) -> None:
    objective = DPMFlowMatching(shift=3.0) if solver == "dpm" else FlowMatching(shift=3.0)
    module = student(saved, objective, scale)
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])
    assert module.transformer is not None
    scheduler = stock.scheduler if solver == "dpm" else FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = module.family.pipeline(module.transformer.eval(), scheduler)
    assert isinstance(pipeline, SanaPipeline)
    theirs = drawn(pipeline, size, guidance_scale=scale)
    assert levels_apart(ours, theirs) < FLOAT_NOISE
    assert ours.unique().numel() > 20  # not a flat picture


@pytest.mark.parametrize(
    "instruction", [INSTRUCTION, pytest.param(None, marks=pytest.mark.slow), []], ids=["own", "published", "none"]
)
def test_the_instruction_stands_before_all_prompts_but_the_null_one(
    saved: Path, stock: Any, instruction: list[str] | None
) -> None:
    lines = list(encoder(saved, instruction).instruction)
    if instruction is None:
        assert len(lines) == 8 and "Enhanced prompt" in lines[0]
    sana = family(saved)
    sana.text_encoder = encoder(saved, instruction)
    found = sana.encode_text([PROMPT, ""]).tokens["text"]
    positive, mask, null, null_mask = stock.encode_prompt(
        PROMPT, max_sequence_length=LENGTH, complex_human_instruction=lines
    )
    for row, (expected, real) in enumerate([(positive, mask), (null, null_mask)]):
        assert torch.equal(found.mask[row], real[0].bool())
        torch.testing.assert_close(found.values[row][found.mask[row]], expected[0][real[0].bool()].detach())
    # the beginning, the last token of the instruction where there is one, and one token per letter
    assert found.mask.sum(1).tolist() == [1 + bool(lines) + len(PROMPT), 1]


def test_texts_are_cleaned_as_the_stock_pipeline_cleans_them(saved: Path) -> None:
    sana = family(saved)
    loud, quiet = (sana.encode_text([text]).tokens["text"].values for text in (" Two STARS ", "two stars"))
    assert torch.equal(loud, quiet)


def test_fingerprints_tell_instructions_apart(saved: Path) -> None:
    assert len({encoder(saved, lines).fingerprint for lines in (INSTRUCTION, None, [])}) == 3


def test_it_starts_from_every_weight_or_names_what_is_missing(saved: Path, tmp_path: Path) -> None:
    network = family(saved).build()
    published = load_file(saved / "transformer" / "diffusion_pytorch_model.safetensors")
    assert network.state_dict().keys() == published.keys()
    assert all(torch.equal(published[name], part) for name, part in network.state_dict().items())
    shutil.copytree(saved / "transformer", tmp_path / "transformer")
    del published["caption_norm.weight"]
    save_file(published, tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"lack caption_norm\.weight\. All must be there"):
        family(saved, pretrained=str(tmp_path)).build()


@pytest.mark.parametrize("half", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.in_turn("sana")
def test_every_weight_gets_a_gradient_when_blocks_are_recomputed(saved: Path, half: bool) -> None:
    module = student(saved, gradient_checkpointing=True)
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = module.training_step({"image": image, "prompt": [PROMPT], "sample_seed": torch.tensor([1])}, 0)
    loss.backward()
    assert loss.isfinite()
    assert module.transformer is not None
    assert [name for name, weight in module.transformer.named_parameters() if weight.grad is None] == []
    assert len(module.family.blocks(module.transformer)) == 2


@pytest.mark.in_turn("sana")
def test_lora_targets_are_the_inputs_of_both_attentions(saved: Path) -> None:
    sana = family(saved)
    names = [name for name, part in sana.build().named_modules() if isinstance(part, torch.nn.Linear)]
    assert len([name for name in names if name.endswith(tuple(sana.lora_targets()))]) == 2 * 2 * 3


def test_it_says_what_it_is_and_whether_it_would_work(saved: Path) -> None:
    sana = family(saved)
    assert isinstance(sana, Family) and list(sana.text_encoders) == ["text_encoder"]
    assert sana.fingerprint != family(saved, text_length=8).fingerprint
    assert sana.tokens(Size(64, 96)) == 2 * 3 and sana.text_bytes() == LENGTH * TEXT_WIDTH * 4
    for part in TextToImage(sana, FlowMatching(), 64).parts().values():
        part.verify()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="scales both sides down by 32"):
        sana.check_image_size(48)
    with pytest.raises(ValueError, match="Write layers: 2"):
        family(saved, layers=3).build()
    with pytest.raises(ValueError, match=r"qk_norm is 'rms_norm_across_heads'.* Write qk_norm: null"):
        family(saved, qk_norm="rms_norm_across_heads").build()
    for layout in ("comfyui", "kohya"):
        with pytest.raises(ValueError, match=r"no published .* names for Sana"):
            sana.key_map(layout)
    with pytest.raises(ValueError, match=f"Write dimension: {TEXT_WIDTH}"):
        encoder(saved, dimension=9).verify()
    with pytest.raises(ValueError, match="latent_channels: 4, downscaling: 32"):
        DeepCompressionAutoencoder(str(saved), subfolder="vae").verify()
    with pytest.raises(ValueError, match="equal_steps is true, but DPM"):
        DPMFlowMatching(equal_steps=True)
    other = Sana(encoder(saved), Autoencoder(str(saved), latent_channels=4, subfolder="vae"), **NUMBERS)
    with pytest.raises(ValueError, match=r"Draw with TextToImage\.generate"):
        other.pipeline(torch.nn.Module(), None)
