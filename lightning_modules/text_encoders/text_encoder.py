"""The seam behind which every text encoder stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class TextEncoder(Protocol):
    """Turn texts into one state per token. Frozen and no `nn.Module`: it never enters checkpoints, EMA or sharding."""

    @property
    def fingerprint(self) -> str:
        """Name the model and its revision; equal fingerprints give equal states."""
        ...

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        ...

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return states (text, max_tokens, dimension) and the mask of real tokens (text, max_tokens), padded behind."""
        ...

    def to(self, device: torch.device) -> None:
        """Move the weights; the next `encode` runs there."""
        ...
