"""The seam behind which every judge stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from evolvedirector.records import ImageAndPrompt, Look, OrderedPair


@runtime_checkable
class Judge(Protocol):
    """Read images: which of two fits a prompt better, and whether one shows it.

    A reply that cannot be read is a `Look` with covered mass 0, never an exception.
    """

    @property
    def fingerprint(self) -> str:
        """Name the model, its revision and the question template."""
        ...

    def look(self, pairs: Sequence[OrderedPair]) -> Iterator[Look]:
        """Yield, per pair in its one order, the probability that the first image fits better."""
        ...

    def check(self, items: Sequence[ImageAndPrompt]) -> Iterator[Look]:
        """Yield, per item, the probability that the image shows the prompt."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def close(self) -> Any:
        """Free memory and connections; the next call loads again."""
        ...
