"""SD3 on a tiny model built from configs: the published loss, and the stock pipeline's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from evolvedirector.lightning_modules import (
    SD3,
    Autoencoder,
    CLIPEncoder,
    Family,
    FlowMatching,
    ResolutionFlowMatching,
    T5Encoder,
    TextToImage,
)
from evolvedirector.lightning_modules.draws import draw
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Extras, Size
from tests.teachers.tiny_pipelines import clip_text, clip_tokenizer, kl_autoencoder, t5_text, word_tokenizer

PROMPT = "a red circle left of a blue star"
NUMBERS: dict[str, Any] = {
    **{"sample_size": 16, "patch_size": 2, "layers": 2, "heads": 2, "head_dim": 16, "pos_embed_max_size": 24},
    **{"dual_attention_layers": (0,), "qk_norm": "rms_norm"},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("sd3"))


def save(folder: Path) -> Path:
    """A whole tiny pipeline: CLIPs of different widths, a 16-channel codec with shift, a network that is awake."""
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        **{"sample_size": 16, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2},
        **{"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32, "caption_projection_dim": 32},
        **{"pooled_projection_dim": 64, "pos_embed_max_size": 24, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    vae = kl_autoencoder(16, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False)
    clips = [clip_text(hidden, projected=True) for hidden in (8, 20)]
    StableDiffusion3Pipeline(
        text_encoder=clips[0],
        text_encoder_2=clips[1],
        text_encoder_3=t5_text(),
        tokenizer=clip_tokenizer(folder / "words"),
        tokenizer_2=clip_tokenizer(folder / "words"),
        tokenizer_3=word_tokenizer(12),
        transformer=network,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


def family(saved: Path, **changes: Any) -> SD3:
    name = str(saved)
    clip = [
        CLIPEncoder(name, None, width, 32, "float32", f"text_encoder{number}", f"tokenizer{number}")
        for width, number in ((8, ""), (20, "_2"))
    ]
    t5 = T5Encoder(name, None, 32, "float32", "text_encoder_3", "tokenizer_3", attend_padding=True)
    codec = Autoencoder(name, latent_channels=16, downscaling=2, subfolder="vae")
    start = {"pretrained": name, "pretrained_subfolder": "transformer"}
    return SD3(clip[0], clip[1], t5, codec, **({"t5_length": 12} | NUMBERS | start | changes))


def student(saved: Path, objective: Any = None, **changes: Any) -> TextToImage:
    module = TextToImage(
        family(saved, **changes),
        objective or FlowMatching(shift=3.0),
        32,
        guidance_scale=4.5,
        sampling_steps=4,
        generation_chunk_size=1,
        condition_dropout=0.0,
    )
    module.configure_model()
    return module


@pytest.mark.parametrize("size", [Size(32, 32), Size(24, 40)])
@pytest.mark.in_turn("sd3")
def test_one_training_loss_is_that_of_the_published_objective(saved: Path, size: Size) -> None:
    module = student(saved)
    module._log_training = lambda *_: None  # type: ignore[method-assign]
    image = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    seeds = torch.tensor([5, 9])
    found = module.training_step({"image": image, "prompt": [PROMPT, "two stars"], "sample_seed": seeds}, 0)

    # by hand, on the stock parts: z = s (m + d e' - h), z_t = (1 - t) z + t e, loss = |v' - (e - z)|^2
    stock = StableDiffusion3Pipeline.from_pretrained(saved)
    draws = draw(seeds, FlowMatching(), 0.0, (16, size.height_px // 2, size.width_px // 2), latent=True)
    assert draws.latent_noise is not None
    with torch.no_grad():
        posterior = stock.vae.encode(image.float() / 127.5 - 1).latent_dist
        clean = (posterior.mean + posterior.std * draws.latent_noise - 0.06) * 1.5
        states, _, pooled, _ = stock.encode_prompt(
            [PROMPT, "two stars"], None, None, do_classifier_free_guidance=False, max_sequence_length=12
        )
        time = draws.time.view(-1, 1, 1, 1)
        velocity = stock.transformer(
            hidden_states=(1 - time) * clean + time * draws.noise,
            timestep=draws.time * 1000,
            encoder_hidden_states=states,
            pooled_projections=pooled,
        ).sample
        expected = (velocity - (draws.noise - clean)).square().mean()
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("shift", ["fixed", "by resolution"])
@pytest.mark.parametrize("size", [Size(32, 32), Size(24, 40)])
@pytest.mark.in_turn("sd3")
def test_one_drawn_image_is_that_of_the_stock_pipeline(saved: Path, size: Size, shift: str) -> None:
    objective = FlowMatching(shift=3.0) if shift == "fixed" else ResolutionFlowMatching(base_tokens=16, max_tokens=128)
    module = student(saved, objective)
    (ours,) = module.generate([ImageRequest("r", PROMPT, 7, size.width_px, size.height_px)])
    if shift == "fixed":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=128, base_shift=0.5, max_shift=1.15
        )
    assert module.transformer is not None
    pipeline = module.family.pipeline(module.transformer.eval(), scheduler)
    assert isinstance(pipeline, StableDiffusion3Pipeline)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT,
        **{"num_inference_steps": 4, "guidance_scale": 4.5, "height": size.height_px, "width": size.width_px},
        **{"generator": torch.Generator().manual_seed(7), "output_type": "np", "max_sequence_length": 12},
    ).images[0]
    stock = torch.from_numpy((theirs * 255).round()).permute(2, 0, 1)
    assert ours.shape == stock.shape and int((ours.int() - stock.int()).abs().max()) == 0
    assert ours.unique().numel() > 20  # not a flat picture


@pytest.mark.in_turn("sd3")
def test_without_t5_zeros_stand_in_its_place(saved: Path) -> None:
    without = family(saved)
    without.t5 = None
    condition = without.condition(without.encode_text([PROMPT]), [Size(32, 32)], Extras())
    stock = StableDiffusion3Pipeline.from_pretrained(saved, text_encoder_3=None, tokenizer_3=None)
    states, _, pooled, _ = stock.encode_prompt(
        PROMPT, None, None, do_classifier_free_guidance=False, max_sequence_length=12
    )
    torch.testing.assert_close(condition.tokens["text"].values, states.detach())
    torch.testing.assert_close(condition.vectors["pooled"], pooled.detach())


def test_lora_targets_are_the_joint_attentions(saved: Path) -> None:
    sd3 = family(saved)
    names = [name for name, part in sd3.build().named_modules() if isinstance(part, torch.nn.Linear)]
    found = [name for name in names if name.endswith(tuple(sd3.lora_targets()))]
    assert len(found) == 8 + 7  # the last block has no output for text


def test_it_says_what_it_is_and_whether_it_would_work(saved: Path) -> None:
    sd3 = family(saved)
    assert isinstance(sd3, Family) and list(sd3.text_encoders) == ["clip_l", "clip_g", "t5"]
    assert sd3.fingerprint != family(saved, t5_length=8).fingerprint
    assert sd3.tokens(Size(32, 48)) == 8 * 12 and sd3.text_bytes() == (77 * 28 + 64 + 12 * 32) * 4
    with pytest.raises(ValueError, match="at most 96 px"):
        sd3.tokens(Size(32, 100))
    for part in TextToImage(sd3, FlowMatching(), 32).parts().values():
        part.verify()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Write layers: 2"):
        family(saved, layers=3).build()
    with pytest.raises(ValueError, match=r"qk_norm is None.* Write qk_norm: rms_norm"):
        family(saved, qk_norm=None).build()
    with pytest.raises(ValueError, match="Write layout: diffusers"):
        sd3.key_map("kohya")
    with pytest.raises(ValueError, match="Write at least 28"):
        SD3(sd3.clip_l, sd3.clip_g, None, sd3.codec, joint_attention_dim=16)
    masked = T5Encoder(str(saved), None, 32, "float32", "text_encoder_3", "tokenizer_3")
    with pytest.raises(ValueError, match="Write attend_padding: true"):
        SD3(sd3.clip_l, sd3.clip_g, masked, sd3.codec)


def test_blocks_and_checkpointing(saved: Path) -> None:
    sd3 = family(saved, gradient_checkpointing=True)
    network: Any = sd3.build()
    assert len(sd3.blocks(network)) == 2 and network.gradient_checkpointing


def test_the_wrong_width_of_clip_is_refused_by_name(saved: Path) -> None:
    with pytest.raises(ValueError, match="Write dimension: 8, pooled_dimension: 32"):
        CLIPEncoder(str(saved), None, 9, 32, "float32", "text_encoder", "tokenizer").verify()


def test_weights_that_lack_a_tensor_are_refused_by_its_name(tmp_path: Path) -> None:
    path = save(tmp_path) / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["proj_out.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack proj_out\.weight\..* Download or convert"):
        family(tmp_path).build()
