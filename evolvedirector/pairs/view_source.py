"""The seam of what a view generator learns from: objects, each with several views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from evolvedirector.records.poses import Pose


@dataclass(frozen=True, slots=True)
class ViewedObject:
    """One object, as its source lists it: without its pictures."""

    name: str
    """Unique in its source, and the same whenever it is listed."""
    category: str
    """What a text calls it: `chair`."""
    group: str
    """Objects of one group are held out together."""
    poses: tuple[Pose | None, ...]
    """One for each view; None: not known."""


@runtime_checkable
class ViewSource(Protocol):
    """Where views come from; `DrawnViews` needs no download, `FolderViews` reads your own pictures."""

    @property
    def fingerprint(self) -> str:
        """Name the source and every parameter that changes what it shows."""
        ...

    def verify(self) -> Any:
        """See that there are objects with views that can be read."""
        ...

    def objects(self) -> Sequence[ViewedObject]:
        """List all objects, always in the same order."""
        ...

    def view(self, viewed: ViewedObject, number: int, side_px: int) -> Any:
        """Return one view, uint8 RGBA [side, side, 4]: the subject in the middle; opaque where no outline is known."""
        ...
