"""Experts of a network of three layers, small enough to check by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from evolvedirector.experts import Expert, LoRA

SHAPES: Mapping[str, tuple[tuple[int, ...], int]] = {
    "blocks.0.to_q": ((5,), 7),
    "blocks.1.to_q": ((5,), 6),
    "conv": ((3, 2, 2), 4),
}
"""Inputs and outputs of each layer."""


def expert(name: str, rank: int = 2, alpha: float | None = None, **changes: Any) -> Expert:
    """Draw an expert by its name; `beginning` names the A that it is near to."""
    begin = torch.Generator().manual_seed(changes.pop("beginning", 0))
    draws = torch.Generator().manual_seed(sum(map(ord, name)))
    drift, factors = changes.pop("drift", 1.0), {}
    for layer, (inputs, outputs) in SHAPES.items():
        down = torch.randn(rank, *inputs, generator=begin) + drift * torch.randn(rank, *inputs, generator=draws)
        factors[layer] = down, torch.randn(outputs, rank, *[1] * (len(inputs) - 1), generator=draws)
    settings = {"base": "org/base", "base_digest": "d1"} | changes
    return Expert(name, LoRA(rank, alpha), settings.pop("factors", factors), **settings)


def update(of: Expert) -> Tensor:
    """All of dW in a row."""
    return torch.cat([of.update(layer).double().flatten() for layer in of.factors])
