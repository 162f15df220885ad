"""The seam behind which every model that draws stands: the student in training, and one that was exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from evolvedirector.records import ImageRequest

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
