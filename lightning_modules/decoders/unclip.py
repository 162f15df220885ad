"""The decoder half of unCLIP as Karlo has it: a small image from embedding and text, then a large one from that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, slots=True, eq=False)
class UnCLIPParts:
    """Everything of an `UnCLIPPipeline` behind its prior, under the names that it has there."""

    tokenizer: Any
    text_encoder: Any
    text_proj: Any
    decoder: Any
    decoder_scheduler: Any
    super_res_first: Any
    super_res_last: Any
    super_res_scheduler: Any


def draw_unclip(
    parts: UnCLIPParts,
    embeddings: Float[Tensor, "batch embedding"],
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
    steps: int,
    super_resolution_steps: int,
    guidance_scale: float,
) -> Float[Tensor, "batch 3 height width"]:
    """Draw images as `UnCLIPPipeline` does from the end of its prior on (Ramesh et al. 2022, arXiv:2204.06125).

    Args:
        parts: On one device.
        embeddings: Raw image embeddings.
        prompts: Of each; the decoder reads their token states.
        generators: Of each, on the CPU.
        steps: Scheduler steps of the small image, at least 2.
        super_resolution_steps: Of the large one, at least 2.
        guidance_scale: 1 is none.

    Returns:
        In [0, 1], on the parts' device.
    """
    device, dtype = parts.decoder.device, parts.decoder.dtype
    guided = guidance_scale > 1
    # apart, as the stock pipeline does: in one batch some processors round otherwise
    texts = ([["" for _ in prompts]] if guided else []) + [list(prompts)]
    pooled, states, mask = map(torch.cat, zip(*(_texts(parts, each) for each in texts), strict=True))
    context, added = parts.text_proj(
        image_embeddings=embeddings.to(device=device, dtype=dtype),
        prompt_embeds=pooled,
        text_encoder_hidden_states=states,
        do_classifier_free_guidance=guided,
    )
    mask = F.pad(mask, (parts.text_proj.clip_extra_context_tokens, 0), value=True)
    channels, side = parts.decoder.config.in_channels, parts.decoder.config.sample_size
    small = _noise((len(prompts), channels, side, side), generators, context)
    for time, previous in _times(parts.decoder_scheduler, steps, device):
        shown = torch.cat([small, small]) if guided else small
        found = parts.decoder(
            sample=shown, timestep=time, encoder_hidden_states=context, class_labels=added, attention_mask=mask
        ).sample
        if guided:
            found = _guided(found, channels, guidance_scale)
        small = parts.decoder_scheduler.step(
            found, time, small, prev_timestep=previous, generator=list(generators)
        ).prev_sample
    large = _enlarged(parts, small.clamp(-1, 1), generators, super_resolution_steps)
    return (large * 0.5 + 0.5).clamp(0, 1)


def _enlarged(parts: UnCLIPParts, small: Tensor, generators: Sequence[torch.Generator], steps: int) -> Tensor:
    """Draw the large image; the last step has a network of its own. There is no guidance."""
    config = parts.super_res_first.config
    channels, side = config.in_channels // 2, config.sample_size
    large = _noise((len(small), channels, side, side), generators, small)
    guess = F.interpolate(small, size=[side, side], mode="bicubic", align_corners=False, antialias=True)
    for time, previous in _times(parts.super_res_scheduler, steps, small.device):
        network = parts.super_res_last if previous is None else parts.super_res_first
        found = network(sample=torch.cat([large, guess], dim=1), timestep=time).sample
        large = parts.super_res_scheduler.step(
            found, time, large, prev_timestep=previous, generator=list(generators)
        ).prev_sample
    return large


def _texts(parts: UnCLIPParts, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return pooled embeddings, token states and mask of texts, all padded to the tokenizer's length."""
    tokenizer = parts.tokenizer
    tokens = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    found = parts.text_encoder(tokens.input_ids.to(parts.text_encoder.device))
    mask = tokens.attention_mask.bool().to(parts.text_encoder.device)
    return found.text_embeds, found.last_hidden_state, mask


def _guided(found: Tensor, channels: int, scale: float) -> Tensor:
    """Return u + s (c - u) of the predicted noise, with the variance predicted for c."""
    unconditional, conditional = found.chunk(2)
    noise, variance = conditional.split(channels, dim=1)
    away = unconditional[:, :channels]
    return torch.cat([away + scale * (noise - away), variance], dim=1)


def _times(scheduler: Any, steps: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield every time with the one behind it; None behind the last."""
    scheduler.set_timesteps(steps, device=device)
    times = list(scheduler.timesteps)
    yield from zip(times, [*times[1:], None], strict=True)


def _noise(shape: tuple[int, ...], generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Draw unit Gaussian noise, each row on the CPU by its own generator, as `randn_tensor` of diffusers does."""
    rows = [torch.randn((1, *shape[1:]), generator=generator, dtype=like.dtype) for generator in generators]
    return torch.cat(rows).to(like.device)
