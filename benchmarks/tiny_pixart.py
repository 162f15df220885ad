"""A whole tiny PixArt pipeline whose parts keep the published ones' shares of computing, and the count of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE_PX = 64
TEXT_TOKENS = 24
PUBLISHED = (1.12, 1.08, 3.25)
"""TFLOP an image at 512 px: T5 v1.1 XXL on a text of 120 tokens, the codec of Stable Diffusion, and forward and
backward pass of PixArt-XL/2."""


class Shares(NamedTuple):
    """What one training image costs, in FLOP: 2 per multiply-add, elementwise operations left out."""

    text: float
    codec: float
    step: float

    @property
    def ceiling(self) -> float:
        """How much faster training is when neither text nor image need encoding, counted in FLOP."""
        return sum(self) / self.step


def save_pipeline(folder: Path, prompts: Sequence[str]) -> None:
    """Write a stock PixArt pipeline with random weights.

    Args:
        folder: Of the pipeline.
        prompts: Whose words the tokenizer knows.
    """
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokenizer = word_tokenizer(prompts)
    text_encoder = T5EncoderModel(
        T5Config(
            **{"vocab_size": len(tokenizer), "d_model": 256, "d_kv": 64, "d_ff": 640, "num_layers": 12, "num_heads": 4},
            feed_forward_proj="gated-gelu",
        )
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(40, 48, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **{"latent_channels": 4, "norm_num_groups": 8, "layers_per_block": 1, "sample_size": SIDE_PX},
    )
    network = PixArtTransformer2DModel(
        **{"num_attention_heads": 4, "attention_head_dim": 48, "num_layers": 6, "cross_attention_dim": 192},
        **{"sample_size": SIDE_PX // 8, "patch_size": 1, "caption_channels": 256, "in_channels": 4, "out_channels": 8},
        use_additional_conditions=False,
    )
    scheduler = DPMSolverMultistepScheduler()
    PixArtAlphaPipeline(tokenizer, text_encoder, autoencoder, network, scheduler).save_pretrained(folder)


def word_tokenizer(prompts: Sequence[str]) -> Any:
    """Return a tokenizer of the words of prompts, with an end token as T5's.

    Args:
        prompts: In lower case.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for prompt in prompts for word in prompt.lower().replace(",", " , ").split()})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": TEXT_TOKENS},
    )


def count_shares(pipeline: Any, batch: int = 1) -> Shares:
    """Count what a training image costs in each part.

    Args:
        pipeline: Of `save_pipeline`.
        batch: Images counted at once.
    """
    ids = torch.full((batch, TEXT_TOKENS), 3)
    images = torch.zeros(batch, 3, SIDE_PX, SIDE_PX)
    latents = torch.zeros(batch, 4, SIDE_PX // 8, SIDE_PX // 8)
    states = torch.zeros(batch, TEXT_TOKENS, pipeline.text_encoder.config.d_model)

    def step() -> None:
        prediction = pipeline.transformer(
            latents,
            encoder_hidden_states=states,
            timestep=torch.zeros(batch),
            encoder_attention_mask=torch.ones(batch, TEXT_TOKENS),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        prediction.square().mean().backward()
        pipeline.transformer.zero_grad()

    with torch.no_grad():
        text = _flop(lambda: pipeline.text_encoder(input_ids=ids, attention_mask=torch.ones_like(ids)))
        codec = _flop(lambda: pipeline.vae.encode(images))
    return Shares(text / batch, codec / batch, _flop(step) / batch)


def _flop(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
