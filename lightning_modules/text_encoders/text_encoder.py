"""The seams behind which every text encoder stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class FrozenPart(Protocol):
    """A model beside the network that is never trained: no `nn.Module`, so outside of checkpoints, EMA and sharding."""

    @property
    def fingerprint(self) -> str:
        """Name the model and its revision; equal fingerprints give equal results."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def to(self, device: torch.device) -> Any:
        """Move the weights; the next call runs there."""
        ...


@runtime_checkable
class StatesPrecision(Protocol):
    """A part that says in which precision it works."""

    dtype: Literal["float32", "bfloat16"]


def bytes_per_value(part: FrozenPart) -> int:
    """Return how many bytes a value takes that the part computes; 4 where it does not state its precision."""
    return 2 if isinstance(part, StatesPrecision) and part.dtype == "bfloat16" else 4


@runtime_checkable
class TextEncoder(FrozenPart, Protocol):
    """Turn texts into one state per token."""

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        ...

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return states (text, max_tokens, dimension) and the mask of real tokens (text, max_tokens), padded behind."""
        ...


@runtime_checkable
class PooledTextEncoder(FrozenPart, Protocol):
    """Turn texts into one state per token and one vector per text."""

    @property
    def dimension(self) -> int:
        """Dimension of a state."""
        ...

    @property
    def pooled_dimension(self) -> int:
        """Dimension of the vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Tokens to which every text is padded; longer texts are cut."""
        ...

    def encode_pooled(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return states (text, max_tokens, dimension) and vectors (text, pooled_dimension)."""
        ...
