"""The training loader of one epoch: sized, lazy, counted where batches are delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class EvolvingLoader:
    """Deliver one epoch of an endless stream.

    It is no `DataLoader` (it owns one while it is read), so the trainer leaves its order alone. It has a length, since
    Lightning reads an unsized loader one batch ahead and would lose that batch at resume. Its position is bound at the
    first batch only: the trainer asks for iterators that it never reads.
    """

    def __init__(self, batches_per_epoch: int, deliver: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Wrap what delivers the rest of the epoch.

        Args:
            batches_per_epoch: The length, also when part of the epoch was delivered before a resume.
            deliver: Called at the first batch; yields what is left of the epoch.
        """
        self._batches_per_epoch = batches_per_epoch
        self._deliver = deliver

    def __len__(self) -> int:
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self._deliver()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the datamodule keeps the position. The method tells Lightning that resume is exact."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing back, see `state_dict`."""
