"""FLUX.2-klein, tiny: a whole pipeline of the stock classes, saved as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from evolvedirector.lightning_modules import Flux2Autoencoder, Flux2Klein, Flux2Qwen3Encoder

TEXT_LENGTH = 96
LAYERS = (1, 2, 3)
NUMBERS: dict[str, Any] = {
    **{"text_length": TEXT_LENGTH, "layers": 2, "single_layers": 2, "heads": 2, "head_dim": 16},
    "axes_dims_rope": (4, 4, 4, 4),
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


def qwen_tokenizer() -> Any:
    """Bytes as tokens, no merges: enough to tell prompts apart."""
    letters = [*sorted(bytes_to_unicode().values()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={letter: number for number, letter in enumerate(letters)},
        merges=[],
        **{"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def qwen_text(width: int = 8, layers: int = 4) -> Any:
    config = Qwen3Config(
        **{"vocab_size": 259, "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": layers},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "tie_word_embeddings": True},
    )
    return Qwen3ForCausalLM(config)


def autoencoder() -> Any:
    """A codec whose batch norm has statistics: untrained ones are the identity."""
    model = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **{"layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4, "sample_size": 32},
    )
    model.bn.running_mean.normal_(std=0.5)
    model.bn.running_var.uniform_(0.5, 2.0)
    return model


def save(folder: Path, distilled: bool = False) -> Path:
    """Save base or distilled, with weights that let text, time and place through."""
    torch.manual_seed(0)
    network = Flux2Transformer2DModel(
        **{"patch_size": 1, "in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16},
        **{"num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (4, 4, 4, 4)},
        guidance_embeds=False,
    )
    text = qwen_text()
    with torch.no_grad():
        for parameter in [*network.parameters(), *text.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    Flux2KleinPipeline(
        text_encoder=text,
        tokenizer=qwen_tokenizer(),
        transformer=network,
        vae=autoencoder(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        is_distilled=distilled,
    ).save_pretrained(folder)
    return folder


def family(saved: Path, **changes: Any) -> Flux2Klein:
    name = str(saved)
    return Flux2Klein(
        Flux2Qwen3Encoder(name, None, 24, LAYERS, "float32", "text_encoder", "tokenizer"),
        Flux2Autoencoder(name, latent_channels=4, downscaling=4, subfolder="vae"),
        **(NUMBERS | {"pretrained": name, "pretrained_subfolder": "transformer"} | changes),
    )
