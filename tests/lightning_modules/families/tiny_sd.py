"""Whole tiny pipelines of Stable Diffusion 1.x, 2.x, inpainting and SDXL, saved to a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from tests.teachers.tiny_pipelines import clip_text, clip_tokenizer, kl_autoencoder

SD_NUMBERS: dict[str, Any] = {
    **{"channels": (8, 16), "transformer_layers": (1, 0), "heads": (2, 2), "layers_per_level": 1, "norm_groups": 4}
}
XL_NUMBERS: dict[str, Any] = {
    **{"channels": (8, 16, 16), "transformer_layers": (0, 1, 2), "heads": (1, 2, 4), "layers_per_level": 2},
    **{"norm_groups": 4, "size_embed_dim": 8},
}


def awake(network: torch.nn.Module) -> None:
    """Move every weight a little: some start at zero, and would hide what depends on them."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


def save_stable_diffusion(folder: Path, linear_projection: bool = False, inpainting: bool = False) -> Path:
    """Save a pipeline of the 1.x (2.x: linear projection) or inpainting kind."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **{"layers_per_block": 1, "sample_size": 16, "in_channels": 9 if inpainting else 4, "out_channels": 4},
        **{"norm_num_groups": 4, "cross_attention_dim": 32, "attention_head_dim": 2},
        use_linear_projection=linear_projection,
    )
    awake(unet)
    pipeline: Any = StableDiffusionInpaintPipeline if inpainting else StableDiffusionPipeline
    pipeline(
        **{"vae": kl_autoencoder(scaling_factor=1.5), "text_encoder": clip_text(32), "unet": unet},
        **{"tokenizer": clip_tokenizer(folder / "words"), "scheduler": EulerDiscreteScheduler(steps_offset=1)},
        **{"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ).save_pretrained(folder)
    return folder


def taught(folder: Path, prediction: str) -> Path:
    """Return a pipeline whose scheduler says what an objective's prediction asks for; a copy where it says another."""
    if prediction == "epsilon":
        return folder
    copy = folder.with_name(f"{folder.name}-{prediction}")
    if not copy.exists():
        shutil.copytree(folder, copy)
        file = copy / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    return copy


def save_sdxl(folder: Path) -> Path:
    """Save an SDXL pipeline: three levels, the first without attention, as the real one has."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        **{"layers_per_block": 2, "sample_size": 16, "in_channels": 4, "out_channels": 4, "norm_num_groups": 4},
        **{"cross_attention_dim": 28, "attention_head_dim": (1, 2, 4), "use_linear_projection": True},
        **{"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "transformer_layers_per_block": (1, 1, 2)},
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    awake(unet)
    StableDiffusionXLPipeline(
        **{"vae": kl_autoencoder(scaling_factor=1.5), "text_encoder": clip_text(8), "unet": unet},
        **{"text_encoder_2": clip_text(20, projected=True), "tokenizer": clip_tokenizer(folder / "words")},
        **{"tokenizer_2": clip_tokenizer(folder / "words"), "scheduler": EulerDiscreteScheduler(steps_offset=1)},
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder
