"""A whole Z-Image pipeline with random weights, built from configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.lightning_modules.families.tiny_qwen_image import qwen_tokenizer, wake
from tests.teachers.tiny_pipelines import kl_autoencoder

LATENT_CHANNELS, TEXT_WIDTH = 4, 24
NUMBERS: dict[str, Any] = {
    **{"layers": 2, "refiner_layers": 1, "heads": 2, "head_dim": 16},
    **{"axes_dims": (4, 6, 6), "axes_lens": (98, 16, 24)},
}
# As Qwen3's: thinking switched off writes an empty thought, which a tokenizer that forgets to think would show.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def save_z_image(folder: Path, words: Sequence[str]) -> Path:
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
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = qwen_tokenizer([*words, "user", "assistant"], CHAT_TEMPLATE)
    network = ZImageTransformer2DModel(
        **{"in_channels": LATENT_CHANNELS, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2},
        **{"n_kv_heads": 2, "cap_feat_dim": TEXT_WIDTH, "axes_dims": [4, 6, 6], "axes_lens": [98, 16, 24]},
    )
    vae = kl_autoencoder(
        LATENT_CHANNELS, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False
    )
    wake(network, vae)
    encoder = Qwen3Model(
        Qwen3Config(
            **{"hidden_size": TEXT_WIDTH, "intermediate_size": 37, "num_hidden_layers": 3, "num_attention_heads": 4},
            **{"num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(tokenizer), "max_position_embeddings": 512},
            **{"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
        )
    )
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=6.0), vae, encoder, tokenizer, network)
