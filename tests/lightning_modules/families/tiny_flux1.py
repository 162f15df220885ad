"""FLUX.1, tiny: a whole pipeline of the stock classes, saved as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from evolvedirector.lightning_modules import Autoencoder, CLIPEncoder, Flux1, T5Encoder
from tests.teachers.tiny_pipelines import clip_text, clip_tokenizer, kl_autoencoder, t5_text, word_tokenizer

T5_LENGTH = 12
NUMBERS: dict[str, Any] = {
    **{"t5_length": T5_LENGTH, "layers": 2, "single_layers": 2, "heads": 2, "head_dim": 16},
    "axes_dims_rope": (4, 6, 6),
}


def save(folder: Path, guidance_embeds: bool = True) -> Path:
    """Save dev (or schnell, which reads no guidance scale), with weights that let text, time and place through."""
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        **{"patch_size": 1, "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16},
        **{"num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 8},
        **{"guidance_embeds": guidance_embeds, "axes_dims_rope": (4, 6, 6)},
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    FluxPipeline(
        text_encoder=clip_text(8),
        text_encoder_2=t5_text(),
        tokenizer=clip_tokenizer(folder / "words"),
        tokenizer_2=word_tokenizer(T5_LENGTH),
        transformer=network,
        vae=kl_autoencoder(4, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=scheduler(guidance_embeds),
    ).save_pretrained(folder)
    return folder


def scheduler(dynamic: bool) -> Any:
    """dev's schedule follows the size of the image, schnell's does not."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=dynamic, **{"base_image_seq_len": 16, "max_image_seq_len": 128}
    )


def family(saved: Path, **changes: Any) -> Flux1:
    name = str(saved)
    return Flux1(
        CLIPEncoder(name, None, 8, None, "float32", "text_encoder", "tokenizer", projected=False),
        T5Encoder(name, None, 32, "float32", "text_encoder_2", "tokenizer_2", attend_padding=True),
        Autoencoder(name, latent_channels=4, downscaling=2, subfolder="vae"),
        **(NUMBERS | {"pretrained": name, "pretrained_subfolder": "transformer"} | changes),
    )
