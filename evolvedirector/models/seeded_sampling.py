"""Sampling of tokens whose every draw follows from the seed of one request, whoever shares its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


def sample_next(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float = 1.0) -> torch.Tensor:
    """Draw one token per row by inverting the distribution function at a given uniform number.

    Nucleus sampling (Holtzman et al. 2020): with probabilities p sorted downwards and c_k = p_1 + ... + p_k, the kept
    tokens are those with c_k - p_k < top_p, and the token drawn is the first with c_k > u * c_kept.

    Args:
        logits: [rows, vocabulary].
        uniforms: [rows], each at least 0 and under 1.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Probability that the kept tokens have at least, over 0 to 1.

    Returns:
        Token ids, int64 [rows].
    """
    if temperature == 0.0:
        return logits.argmax(dim=-1)
    probabilities, tokens = (logits.float() / temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    reached = probabilities.double().cumsum(dim=-1)  # [rows, vocabulary]
    kept = reached - probabilities < top_p
    mass = torch.where(kept, probabilities, 0.0).double().sum(dim=-1, keepdim=True)
    place = torch.searchsorted(reached, uniforms.double().unsqueeze(1).to(reached.device) * mass, right=True)
    place = place.clamp(max=kept.sum(dim=-1, keepdim=True) - 1)  # rounding must not leave the kept ones
    return tokens.gather(1, place).squeeze(1)


class SeededSampling(LogitsProcessor):
    """Let the library's greedy search sample, each row with a generator of its own.

    The library samples a whole batch from one global generator, so that a text would depend on its neighbours. Here
    each row's next token is drawn first and all others are ruled out.

    Args:
        seeds: One per row of the batch.
        temperature: Of the sampling; 0 takes the likeliest token.
        top_p: Probability that the kept tokens have at least.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature
        self._top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Rule out all tokens but the one that is drawn.

        Args:
            input_ids: What was written so far; unused.
            scores: Logits of the next token, [rows, vocabulary].
        """
        draws = [torch.rand((), generator=generator, dtype=torch.float64) for generator in self._generators]
        chosen = sample_next(scores, torch.stack(draws), self._temperature, self._top_p)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen.unsqueeze(1), 0.0)
