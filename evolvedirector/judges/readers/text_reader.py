"""The seam behind which text in images is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TextReader(Protocol):
    """Read the text that is drawn in images (OCR)."""

    @property
    def fingerprint(self) -> str:
        """Name the model and every parameter that changes what it reads."""
        ...

    def read(self, images: Sequence[bytes]) -> Iterator[tuple[str, ...]]:
        """Yield, per encoded image in order, the lines of text found in it; none for an image that cannot be read."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def close(self) -> Any:
        """Free memory; the next call loads again."""
        ...
