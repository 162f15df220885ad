"""Write a sharded checkpoint in a thread of every rank while training goes on."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import checkpoint as sharded
from torch.distributed.checkpoint.api import CheckpointException

_BESIDE_SHARDS = "meta.pt"
"""Where Lightning keeps all but weights and optimizer in a sharded checkpoint."""


class AsynchronousSave:
    """Copy the state of a training, write it beside training, and say whether that went well on all ranks.

    `torch.distributed.checkpoint.async_save` writes shards so, too. Here the same thread also writes what lies beside
    them and calls back when every rank is done, so that a commit can come last. Its ranks meet in a gloo group of their
    own, since collectives of two threads in one group get mixed up. One checkpoint is written at a time.

    Args:
        timeout: How long a rank waits for the slowest writer.
    """

    def __init__(self, timeout: timedelta | None) -> None:
        self._timeout = timeout
        self._group: dist.ProcessGroup | None = None
        self._thread: threading.Thread | None = None
        self._path = Path()
        self._error: BaseException | None = None

    def begin(self, path: Path, state: dict[str, Any], beside: dict[str, Any], then: Callable[[], None]) -> None:
        """Copy everything and begin to write; every rank calls it, and has finished what it began before.

        Args:
            path: A folder, which is made.
            state: Weights and optimizer, of which each rank writes its shards.
            beside: What rank 0 writes beside them.
            then: Called in the thread of rank 0 when all is on the disk.
        """
        if self._group is None:
            self._group = dist.new_group(backend="gloo", timeout=self._timeout)
        is_first = dist.get_rank() == 0
        packed = io.BytesIO()
        if is_first:
            torch.save(beside, packed)  # plain values of callbacks and loops change with the next step, too
        path.mkdir(parents=True, exist_ok=True)
        copied = _copied(state)
        self._path, self._error = path, None

        def write() -> None:
            try:
                sharded.save(copied, checkpoint_id=path, process_group=self._group)
                if is_first:
                    _write(path / _BESIDE_SHARDS, packed)
                    then()
            except BaseException as error:  # torch's is no Exception; `finish` tells it
                self._error = error

        self._thread = threading.Thread(target=write, name="asynchronous save")
        self._thread.start()

    def finish(self) -> tuple[Path, str] | None:
        """Wait until every rank has written; every rank calls it and returns the same.

        Returns:
            Which checkpoint could not be written, and why. None: all is well, or there was none.
        """
        if self._thread is None:
            return None
        self.wait()
        self._thread = None
        reasons: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(reasons, None if self._error is None else reason_of(self._error), group=self._group)
        return next(((self._path, reason) for reason in reasons if reason is not None), None)

    def wait(self) -> tuple[Path, str] | None:
        """Wait until this rank's thread is done, well or not; the others may be gone.

        Returns:
            Which checkpoint could not be written, as far as this rank knows, and why. None: nothing that `finish` has
            not told.
        """
        if self._thread is None:
            return None
        self._thread.join()
        return None if self._error is None else (self._path, reason_of(self._error))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value  # plain values do not change


def _write(path: Path, packed: io.BytesIO) -> None:
    with path.open("wb") as file:
        file.write(packed.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def reason_of(error: BaseException) -> str:
    """Say in one line why writing failed, in the words of the first rank where it did.

    Args:
        error: Of this rank, or torch's account of all of them.
    """
    failures = list(error.failures.values()) if isinstance(error, CheckpointException) else []
    innermost = failures[0][0] if failures else error
    return " ".join(str(innermost).split())[:300] or type(innermost).__name__
