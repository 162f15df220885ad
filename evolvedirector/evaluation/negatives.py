"""The seam of hard negatives: what else a picture might be taken for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.records.part import Part


@runtime_checkable
class HardNegatives(Part, Protocol):
    """Name texts that say nearly the same: one attribute is another."""

    def negatives(self, text: str) -> Sequence[str]:
        """List the negatives of a text, without the text itself."""
        ...
