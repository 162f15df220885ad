"""A whole Sana pipeline with random weights, built from configs."""

from __future__ import annotations

from pathlib import Path
from string import ascii_letters, digits, punctuation
from typing import Any

import torch

from tests.lightning_modules.families.tiny_qwen_image import wake

LATENT_CHANNELS, TEXT_WIDTH = 4, 24
NUMBERS: dict[str, Any] = {
    **{"sample_size": 32, "layers": 2, "heads": 4, "head_dim": 8, "cross_heads": 2, "cross_head_dim": 16},
}
INSTRUCTION = ["Say more:", "- of colours", "Prompt: "]


def gemma_tokenizer() -> Any:
    """Characters as tokens, bytes for all others, no merges."""
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = [*special, *[f"<0x{byte:02X}>" for byte in range(256)], "▁", *ascii_letters, *digits, *punctuation]
    vocabulary = {word: number for number, word in enumerate(words)}
    made: Any = GemmaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True, model_max_length=4096)
    return made


def save_sana(folder: Path) -> Path:
    """Build the pipeline, weights from seed 0, and save it.

    Args:
        folder: Where it goes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _pipeline().save_pretrained(folder)
    return folder


def _pipeline() -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    network = SanaTransformer2DModel(
        **{"in_channels": LATENT_CHANNELS, "out_channels": LATENT_CHANNELS, "num_layers": 2, "sample_size": 32},
        **{"num_attention_heads": 4, "attention_head_dim": 8, "num_cross_attention_heads": 2},
        **{"cross_attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": TEXT_WIDTH},
    )
    vae = AutoencoderDC(
        **{"in_channels": 3, "latent_channels": LATENT_CHANNELS, "attention_head_dim": 8, "scaling_factor": 0.41407},
        encoder_block_types=("ResBlock",) * 5 + ("EfficientViTBlock",),
        decoder_block_types=("ResBlock",) * 5 + ("EfficientViTBlock",),
        encoder_block_out_channels=(8, 8, 16, 16, 16, 16),
        decoder_block_out_channels=(8, 8, 16, 16, 16, 16),
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 5 + ((5,),),
        decoder_qkv_multiscales=((),) * 5 + ((5,),),
    )
    wake(network, vae)
    encoder = Gemma2Model(
        Gemma2Config(
            **{"vocab_size": len(tokenizer), "hidden_size": TEXT_WIDTH, "intermediate_size": 37, "head_dim": 8},
            **{"num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "pad_token_id": 0},
            **{"eos_token_id": 1, "bos_token_id": 2, "max_position_embeddings": 4096},
        )
    )
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(tokenizer, encoder, vae, network, scheduler)
