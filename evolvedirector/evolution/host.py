"""The project that hosts evolution: its module draws, as one of the round's parts; its datamodule holds the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from evolvedirector.records import ImageReply, ImageRequest

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class ImageGenerator(Protocol):
    """What `EvolutionCallback` needs of any LightningModule."""

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        """Draw one uint8 image (3, height, width) per request; the same request gives the same image.

        A module may carry an integer `generation_chunk_size`: requests then arrive in multiples of it, cut from the
        global list before ranks are assigned (the last chunk is padded by repeating a request).
        """
        ...


@runtime_checkable
class EvolvingData(Protocol):
    """What `EvolutionCallback` needs of any LightningDataModule."""

    data_root: Path

    @property
    def revision_sha(self) -> str:
        """Name the revision that training reads now."""
        ...

    def open_revision(self, revision_sha: str) -> None:
        """Make the next `train_dataloader()` read this revision."""
        ...


class StudentPart:
    """The student as a part: it is asked for images as a teacher is, in whole chunks.

    Args:
        draw: Draws one encoded image per request.
        fingerprint: Names its weights: which step, averaged or not.
        chunk: Requests drawn together.
    """

    def __init__(
        self, draw: Callable[[Sequence[ImageRequest]], list[bytes]], fingerprint: str = "student", chunk: int = 1
    ) -> None:
        self._draw = draw
        self._fingerprint = fingerprint
        self._chunk = max(1, chunk)

    @property
    def fingerprint(self) -> str:
        """Name the weights."""
        return self._fingerprint

    @property
    def chunk(self) -> int:
        """Return how many requests it draws together."""
        return self._chunk

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one image per request, in order."""
        for request, image in zip(requests, self._draw(requests), strict=True):
            yield ImageReply(request.request_id, "image", image)
