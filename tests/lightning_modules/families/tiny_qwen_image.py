"""A whole Qwen-Image pipeline with random weights, built from configs; its tokenizer is trained on its own frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from evolvedirector.lightning_modules.text_encoders.qwen_vl_encoder import TEMPLATE

LATENT_CHANNELS, TEXT_WIDTH = 4, 32
NUMBERS: dict[str, Any] = {"layers": 2, "heads": 2, "head_dim": 16, "axes_dims_rope": (4, 6, 6)}
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def qwen_tokenizer(corpus: Sequence[str], chat_template: str | None = None) -> Any:
    """Byte-level BPE as Qwen has it, in which the words of the corpus are whole."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trained.train_from_iterator(
        [text for text in corpus for _ in range(4)],
        trainers.BpeTrainer(
            vocab_size=2000,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=_SPECIAL,
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokenizer: Any = Qwen2Tokenizer(vocab=trained.get_vocab(), merges=merges, model_max_length=2048)
    tokenizer.add_tokens(_SPECIAL[1:], special_tokens=True)
    if chat_template:
        tokenizer.chat_template = chat_template
    return tokenizer


def wake(*networks: torch.nn.Module) -> None:
    """Add a little noise to every weight, so that none is zero and every part is heard."""
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)


def save_qwen_image(folder: Path, words: Sequence[str]) -> Path:
    """Build the pipeline, weights from seed 0, and save it.

    Args:
        folder: Where it goes.
        words: Prompts whose words the tokenizer knows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _pipeline(words).save_pretrained(folder)
    return folder


def _pipeline(words: Sequence[str]) -> Any:
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = qwen_tokenizer([TEMPLATE, *words])
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    text = {
        **{"hidden_size": TEXT_WIDTH, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "vocab_size": len(tokenizer), "rope_parameters": rope},
        **{"max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": TEXT_WIDTH}
    network = QwenImageTransformer2DModel(
        **{"patch_size": 2, "in_channels": 4 * LATENT_CHANNELS, "out_channels": LATENT_CHANNELS, "num_layers": 2},
        **{"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": TEXT_WIDTH},
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(
        **{"base_dim": 4, "z_dim": LATENT_CHANNELS, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1},
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.1, 0.8, 0.9, 1.3],
    )
    wake(network, vae)
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            **{"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64, "base_shift": 0.5},
            **{"max_shift": 0.9, "shift_terminal": 0.02},
        ),
        vae=vae,
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
        tokenizer=tokenizer,
        transformer=network,
    )
