"""The project that hosts evolution: its module draws, as one of the round's parts; its datamodule holds the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from evolvedirector.errors import RunError
from evolvedirector.models.image_generator import ImageGenerator
from evolvedirector.records import ImageReply, ImageRequest, LossReply, LossRequest

__all__ = ["EvolvingData", "ImageGenerator", "MeasuresLoss", "ReadsFiles", "StudentPart"]


@runtime_checkable
class MeasuresLoss(Protocol):
    """What drawing by loss needs of a LightningModule, beside `ImageGenerator`."""

    def sample_losses(self, requests: Sequence[LossRequest]) -> list[float]:
        """Return the mean loss of each sample over its noise levels; the same request gives the same loss.

        Requests arrive in multiples of `generation_chunk_size`, as they do for `generate`.
        """
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """A module that draws from files beside the prompt: requests bring those that the dataset has."""

    @property
    def file_roles(self) -> Sequence[str]:
        """Roles that it reads where a prompt has them."""
        ...

    @property
    def needed_roles(self) -> Sequence[str]:
        """Those of them that it cannot draw without."""
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
        measure: Returns one loss per request. None: its module measures none.
        roles: Files beside the prompt that it reads, where there are some.
        needed_roles: Those that it cannot draw without.
    """

    def __init__(
        self,
        draw: Callable[[Sequence[ImageRequest]], list[bytes]],
        fingerprint: str = "student",
        chunk: int = 1,
        measure: Callable[[Sequence[LossRequest]], list[float]] | None = None,
        roles: Sequence[str] = (),
        needed_roles: Sequence[str] = (),
    ) -> None:
        self.roles, self.needed_roles = tuple(roles), tuple(needed_roles)
        self._draw = draw
        self._fingerprint = fingerprint
        self._chunk = max(1, chunk)
        self._measure = measure

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

    @property
    def measures_loss(self) -> bool:
        """Whether it can be asked for losses."""
        return self._measure is not None

    def losses(self, requests: Sequence[LossRequest]) -> Iterator[LossReply]:
        """Yield the loss of each request, in order.

        Raises:
            RunError: One is not finite: draws cannot be shared out by it.
        """
        assert self._measure is not None, "a plan with losses is refused where there is nobody to measure them"
        for request, loss in zip(requests, self._measure(requests), strict=True):
            if not math.isfinite(loss):
                raise RunError(
                    f"The student's loss on {request.prompt!r} is {loss}. Draws by loss need finite ones. Go on from an"
                    " earlier checkpoint with a lower learning rate, or write `weighting.loss_power: 0`."
                )
            yield LossReply(request.request_id, loss)
