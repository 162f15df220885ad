"""What ranks tell each other about an evaluation, through a group of their own that outlasts slow judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

_TIMEOUT = timedelta(days=30)  # a dead peer ends the wait at once; a slow teacher must not

Key = TypeVar("Key", str, int)
Value = TypeVar("Value")


def several_ranks() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def own_rank() -> int:
    """Return the number of this process among its peers; 0 when it is alone."""
    return dist.get_rank() if several_ranks() else 0


def from_all_ranks(own: Mapping[Key, Value]) -> dict[Key, Value]:
    """Join what every rank found, by key; every rank calls it and gets the whole."""
    if not several_ranks():
        return dict(own)
    parts: list[Any] = [None] * dist.get_world_size()
    with _group() as group:
        dist.all_gather_object(parts, dict(own), group=group)
    return {key: value for part in parts for key, value in part.items()}


def on_rank_zero(work: Callable[[], Value]) -> Value:
    """Let rank 0 alone do some work while the others wait for its result; every rank calls it."""
    if not several_ranks():
        return work()
    with _group() as group:
        result: list[Any] = [work() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(result, src=0, group=group)
    return result[0]


@contextmanager
def _group() -> Iterator[dist.ProcessGroup]:
    group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    try:
        yield group
    finally:
        dist.destroy_process_group(group)
