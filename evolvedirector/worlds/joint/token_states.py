"""What the text tower reads: the states of a frozen text encoder, one per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from evolvedirector.records.part import Part

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class TokenStates(Part, Protocol):
    """A text encoder such as `MiniLMEncoder` at layer 2, whose states hardly depend on their neighbours."""

    @property
    def dimension(self) -> int:
        """Width of a state."""
        ...

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        """Return states (text, max_tokens, dimension) and the mask of real tokens, padded behind."""
        ...
