"""Kandinsky 2.2 and Karlo with a few hundred thousand random weights, saved as their pipelines are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.lightning_modules.families.tiny_sd import awake
from tests.teachers.tiny_pipelines import clip_text, clip_tokenizer

WIDTH = 32
"""Of the joint space, and of token states."""


def kandinsky_decoder(width: int = WIDTH) -> Any:
    """Build a pipeline whose images may have sides in multiples of 4 px."""
    from diffusers import DDPMScheduler, KandinskyV22Pipeline, UNet2DConditionModel, VQModel

    unet = UNet2DConditionModel(
        **{"in_channels": 4, "out_channels": 8, "block_out_channels": (8, 16), "layers_per_block": 1},
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        **{"addition_embed_type": "image", "encoder_hid_dim": width, "encoder_hid_dim_type": "image_proj"},
        **{"cross_attention_dim": width, "attention_head_dim": 4, "norm_num_groups": 4},
        resnet_time_scale_shift="scale_shift",
    )
    awake(unet)
    movq = VQModel(
        **{"block_out_channels": (32, 32), "latent_channels": 4, "num_vq_embeddings": 12, "vq_embed_dim": 4},
        **{"layers_per_block": 1, "norm_type": "spatial", "norm_num_groups": 8},
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    )
    scheduler = DDPMScheduler(beta_schedule="linear", clip_sample=True, variance_type="learned_range")
    return KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq)


def clip_vision(width: int = WIDTH) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
            **{"projection_dim": width, "image_size": 16, "patch_size": 8},
        )
    )


def save_clip(folder: Path) -> Path:
    """Save a whole CLIP, as `openai/clip-vit-large-patch14` is: both halves at the top, tokenizer, image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer(folder / "words")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(
            CLIPConfig(
                text_config=clip_text(WIDTH, projected=True).config.to_dict(),
                vision_config=clip_vision().config.to_dict(),
                projection_dim=WIDTH,
            )
        )
    for part in (model, tokenizer, _processor(CLIPImageProcessor)):
        part.save_pretrained(folder)
    return folder


def save_prior_of_kandinsky(folder: Path) -> Path:
    """Save what is read of `kandinsky-community/kandinsky-2-2-prior`: its image encoder and processor."""
    from transformers import CLIPImageProcessor

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip_vision().save_pretrained(folder / "image_encoder")
    _processor(CLIPImageProcessor).save_pretrained(folder / "image_processor")
    return folder


def _processor(kind: Any) -> Any:
    return kind(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def save_kandinsky(folder: Path) -> Path:
    """Save the decoder, with its image encoder beside it under `image_encoder`, and return the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kandinsky_decoder().save_pretrained(folder)
        clip_vision().save_pretrained(folder / "image_encoder")
    return folder


def karlo(folder: Path) -> dict[str, Any]:
    """Build the parts of an `UnCLIPPipeline` without its prior, under their names there; images have 16 px."""
    from diffusers import UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel

    decoder = UNet2DConditionModel(
        **{"in_channels": 3, "out_channels": 6, "block_out_channels": (8, 16), "layers_per_block": 1},
        **{"sample_size": 8, "cross_attention_dim": 16, "attention_head_dim": 4, "norm_num_groups": 4},
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )
    projection = UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, time_embed_dim=32, cross_attention_dim=16)
    enlarging = [
        UNet2DModel(
            **{"in_channels": 6, "out_channels": 3, "block_out_channels": (8, 16), "layers_per_block": 1},
            **{"sample_size": 16, "norm_num_groups": 4},
            down_block_types=("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
            up_block_types=("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
        )
        for _ in range(2)
    ]
    for network in (decoder, projection, *enlarging):
        awake(network)
    return {
        "tokenizer": clip_tokenizer(folder / "words"),
        "text_encoder": clip_text(WIDTH, projected=True),
        "text_proj": projection,
        "decoder": decoder,
        # of networks that learned nothing, only a predicted image has pixels between black and white
        "decoder_scheduler": UnCLIPScheduler(variance_type="learned_range", prediction_type="sample"),
        "super_res_first": enlarging[0],
        "super_res_last": enlarging[1],
        "super_res_scheduler": UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
    }


def save_karlo(folder: Path) -> Path:
    """Save the parts as the hub lays them out, without a prior, and return the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = karlo(folder)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "UnCLIPPipeline"}), encoding="utf-8")
    return folder
