"""The seam of an embedded world: things with exact alpha, each in several art sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class CutOuts(Protocol):
    """Draw things as cut-outs; `ShapeCutOuts` needs no download, `EmojiCutOuts` the emoji packages."""

    @property
    def fingerprint(self) -> str:
        """Name the world and what of it is used."""
        ...

    @property
    def looks(self) -> tuple[str, ...]:
        """Name the art sets."""
        ...

    def concepts(self) -> Sequence[str]:
        """List what can be drawn, always in the same order."""
        ...

    def category(self, concept: str) -> str:
        """Return what a text calls a concept."""
        ...

    def cut_out(self, concept: str, look: str, size_px: int) -> Any:
        """Draw a concept as a tight RGBA square of Pillow."""
        ...
