"""The seam behind which a language model replies to instructions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TextCompleter(Protocol):
    """A language model that replies in text, as writer models do."""

    @property
    def fingerprint(self) -> str:
        """Name the model and every parameter that changes its replies."""
        ...

    def complete(self, instructions: Sequence[str]) -> Iterator[str]:
        """Yield one reply per instruction, in order; an empty one where there is none (an outage, a refusal)."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def close(self) -> Any:
        """Free memory and connections; the next call loads again."""
        ...
