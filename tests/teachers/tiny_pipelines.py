"""Text-to-image pipelines of diffusers with random weights, a few thousand parameters each, built from configs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "red", "green", "blue", "circle", "square", "star", "two", "of", "left")


def clip_tokenizer(folder: Path) -> Any:
    """Letters as tokens, no merges: enough to tell prompts apart."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *[f"{letter}</w>" for letter in letters]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def word_tokenizer(max_length: int = 16) -> Any:
    """Words as tokens, for text encoders of the T5 and Gemma kind."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": max_length},
    )


def clip_text(hidden: int = 32, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        **{"vocab_size": 54, "hidden_size": hidden, "intermediate_size": 37, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "projection_dim": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_text() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=13, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0)
    )


def kl_autoencoder(channels: int = 4, width: int = 8, **config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(width, width),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **{"in_channels": 3, "out_channels": 3, "latent_channels": channels, "norm_num_groups": 4, "sample_size": 32},
        **config,
    )


def stable_diffusion(folder: Path) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"layers_per_block": 1, "sample_size": 16, "in_channels": 4, "out_channels": 4, "norm_num_groups": 2},
        **{"cross_attention_dim": 32, "attention_head_dim": 2},
    )
    return StableDiffusionPipeline(
        vae=kl_autoencoder(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(folder),
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pixart(folder: Path) -> Any:
    from diffusers import DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        **{"sample_size": 8, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 2},
        **{"caption_channels": 32, "in_channels": 4, "out_channels": 8, "cross_attention_dim": 16},
        norm_type="ada_norm_single",
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5_text(),
        vae=kl_autoencoder(),
        transformer=transformer,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
    )


def stable_diffusion_xl(folder: Path) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"layers_per_block": 1, "sample_size": 16, "in_channels": 4, "out_channels": 4, "norm_num_groups": 4},
        **{"cross_attention_dim": 64, "attention_head_dim": (2, 4), "use_linear_projection": True},
        **{"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "transformer_layers_per_block": (1, 1)},
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return StableDiffusionXLPipeline(
        vae=kl_autoencoder(),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(projected=True),
        tokenizer=clip_tokenizer(folder),
        tokenizer_2=clip_tokenizer(folder),
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        add_watermarker=False,
    )


def stable_diffusion_3(folder: Path) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        **{"sample_size": 16, "patch_size": 1, "in_channels": 4, "num_layers": 1, "attention_head_dim": 8},
        **{"num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": 32},
        **{"pooled_projection_dim": 64, "out_channels": 4},
    )
    return StableDiffusion3Pipeline(
        text_encoder=clip_text(projected=True),
        text_encoder_2=clip_text(projected=True),
        text_encoder_3=t5_text(),
        tokenizer=clip_tokenizer(folder),
        tokenizer_2=clip_tokenizer(folder),
        tokenizer_3=word_tokenizer(),
        transformer=transformer,
        vae=kl_autoencoder(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def flux(folder: Path) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        **{"patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16},
        **{"num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32},
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=clip_text(),
        text_encoder_2=t5_text(),
        tokenizer=clip_tokenizer(folder),
        tokenizer_2=word_tokenizer(),
        transformer=transformer,
        vae=kl_autoencoder(1, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
    )


def sana(folder: Path) -> Any:
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    transformer = SanaTransformer2DModel(
        **{"patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_attention_heads": 2},
        **{"attention_head_dim": 4, "num_cross_attention_heads": 2, "cross_attention_head_dim": 4},
        **{"cross_attention_dim": 8, "caption_channels": 8, "sample_size": 32},
    )
    vae = AutoencoderDC(
        **{"in_channels": 3, "latent_channels": 4, "attention_head_dim": 2, "scaling_factor": 0.41407},
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    text = Gemma2Model(
        Gemma2Config(
            **{"vocab_size": 13, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 4},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 2},
        )
    )
    return SanaPipeline(word_tokenizer(), text, vae, transformer, FlowMatchEulerDiscreteScheduler(shift=7.0))


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "stable_diffusion": stable_diffusion,
    "pixart": pixart,
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": stable_diffusion_3,
    "flux": flux,
    "sana": sana,
}


def save_tiny(family: str, folder: Path) -> Path:
    """Build one family with weights that follow from its name, save it and return its folder."""
    before = torch.get_rng_state()
    torch.manual_seed(0)
    pipeline = FAMILIES[family](folder / "words")
    torch.set_rng_state(before)
    pipeline.save_pretrained(folder / family, safe_serialization=True)
    return folder / family
