"""The seam behind which every image source stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from evolvedirector.records import ImageReply, ImageRequest


@runtime_checkable
class Teacher(Protocol):
    """Draw images for prompts: an image API or a local pipeline.

    `fingerprint` (model, revision, parameters) is part of every cache key. Replies come as they finish, in any
    order; a refusal or failure is a reply, never an exception. `close` frees memory; the next `generate` loads again.
    """

    @property
    def fingerprint(self) -> str:
        """Name the model, its revision and every parameter that changes its images."""
        ...

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one reply per request as each finishes."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def close(self) -> Any:
        """Free memory and connections; the next call loads again."""
        ...
