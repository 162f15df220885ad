"""A round's work spread over all ranks: rank 0 drives, the others serve, results gather to rank 0."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from evolvedirector.errors import RunError
from evolvedirector.execution.executor import InStep, Phase
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.records.part import Part, requests_in_flight_of

_LETTING_GO_S = 0.5
"""For threads of a group to let go of the tensors of its last work."""
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


@contextmanager
def leaving_process_group() -> Iterator[None]:
    """Leave, after a good end, the process group that was joined inside.

    A thread of a gloo group that lets go of a tensor while the interpreter ends aborts the process now and then
    ("terminate called without an active exception", exit code -6), and the launcher calls a finished run a failed one.
    A failed run may have sent what no peer will answer, for which leaving would wait. Lightning leaves groups of NCCL
    at exit.
    """
    before = dist.is_available() and dist.is_initialized()
    yield
    if dist.is_available() and dist.is_initialized() and not before and dist.get_backend() != dist.Backend.NCCL:
        dist.destroy_process_group()
        time.sleep(_LETTING_GO_S)  # a sharded module may hold the group: its threads are not joined


class PeerFailed(RunError):
    """A rank failed in a round; the message says which and why.

    Args:
        message: What happened.
        in_step: Every rank has answered and waits for the next order, so that it can be told.
    """

    def __init__(self, message: str, in_step: bool = False) -> None:
        super().__init__(message)
        self.in_step = in_step


class RankExecutor:
    """Give every rank its share of each unit of work, through a gloo group of its own.

    The group has nothing to do with the default group: no barrier of it can time out while a slow teacher works, and
    NCCL has nothing pending. Rank 0 calls `ask`; every other rank calls `serve` and returns from it when rank 0 calls
    `dismiss`.

    Args:
        local: Does this rank's share; its parts have the same names on every rank.
        group: A gloo group over all ranks.
        check_alive: Raises or returns the reason when a peer is known to be gone.
    """

    def __init__(self, local: LocalExecutor, group: dist.ProcessGroup, check_alive: Callable[[], str | None]) -> None:
        self._local = local
        self._group = group
        self._rank = dist.get_rank(group)
        self._world_size = dist.get_world_size(group)
        self._driver = dist.get_global_rank(group, 0)
        self._check_alive = check_alive
        self._phase: Phase | None = None

    def unit_of(self, part: Part) -> int:
        """Return what all ranks take in a unit together.

        Args:
            part: Who is asked.
        """
        return self._local.unit_of(part) * (1 if requests_in_flight_of(part) else self._world_size)

    def enter(self, phase: Phase) -> None:
        """Let every rank change its tenants."""
        if phase != self._phase:
            self._together("enter", [phase] * self._world_size)
            self._phase = phase

    def ask(self, part: Part, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Ask a part on all ranks, each its share; a service from here, every answer recorded as it comes.

        Args:
            part: Who is asked.
            method: What it is asked to do.
            requests: A unit of work.
        """
        phase, name = self._local.place_of(part)
        self.enter(phase)
        if requests_in_flight_of(part):
            yield from self._local.ask(part, method, requests)
        elif isinstance(part, InStep):
            yield from self._ask_in_step(part.chunk, (phase, name, method), requests)
        else:
            shares = [list(requests[rank :: self._world_size]) for rank in range(self._world_size)]
            results, error = self._gather("ask", [(phase, name, method, share) for share in shares], phase)
            for done in results:
                yield from done or ()  # what the ranks have finished is paid for: hand it on before failing
            if error:
                raise error

    def _ask_in_step(self, size: int, place: tuple[Phase, str, str], requests: Sequence[Any]) -> Iterator[Any]:
        """Deal whole chunks to the ranks in turn, the same number to each: a sharded student needs all in step."""
        if not requests:
            return
        chunks = [list(requests[start : start + size]) for start in range(0, len(requests), size)]
        padded = chunks + [chunks[-1]] * (-len(chunks) % self._world_size)
        shares = [(*place, padded[rank :: self._world_size]) for rank in range(self._world_size)]
        drawn = self._together("ask in step", shares, place[0])
        for index in range(len(chunks)):
            yield from drawn[index % self._world_size][index // self._world_size]

    def serve(self) -> Any:
        """Work for rank 0 until it dismisses this rank; returns what it sent along.

        Raises:
            PeerFailed: The round failed on rank 0 or another rank.
        """
        while True:
            order: list[Any] = [None]
            dist.scatter_object_list(order, None, src=self._driver, group=self._group)
            word, body = order[0]
            if word == "dismiss":
                return body
            if word == "fail":
                raise PeerFailed(body)
            dist.gather_object(self._share(word, body), None, dst=self._driver, group=self._group)

    def dismiss(self, result: Any) -> None:
        """End the service of the other ranks and hand them the result."""
        self._order("dismiss", [result] * self._world_size)

    def fail(self, reason: str) -> None:
        """End the service of the other ranks with an error."""
        self._order("fail", [reason] * self._world_size)

    def _order(self, word: str, bodies: Sequence[Any]) -> None:
        """Send each rank only its own share: images are many bytes."""
        orders = [(word, body) for body in bodies]
        dist.scatter_object_list([None], orders, src=self._driver, group=self._group)

    def _together(self, word: str, shares: list[Any], task: str = "") -> list[Any]:
        results, error = self._gather(word, shares, task or word)
        if error:
            raise error
        return results

    def _gather(self, word: str, shares: list[Any], task: str) -> tuple[list[Any], PeerFailed | None]:
        reason = self._check_alive()
        if reason:
            raise PeerFailed(f"The round cannot go on: {reason}.")
        self._order(word, shares)
        gathered: list[Any] = [None] * self._world_size
        dist.gather_object(self._share(word, shares[0]), gathered, dst=self._driver, group=self._group)
        failures = [
            PeerFailed(f"Rank {rank} failed in a round while it was asked to {task}: {error}", in_step=True)
            for rank, (_, error) in enumerate(gathered)
            if error
        ]
        return [result for result, _ in gathered], failures[0] if failures else None

    def _share(self, word: str, share: Any) -> tuple[Any, str | None]:
        """Do this rank's share; an error becomes a value beside what was done, so that no other rank waits in vain."""
        done: list[Any] = []
        try:
            if word == "enter":
                self._local.enter(share)
                return None, None
            phase, name, method, items = share
            part = self._local.tenants[phase][name]
            if word == "ask in step":
                return [list(self._local.ask(part, method, chunk)) for chunk in items], None
            for answer in self._local.ask(part, method, items):
                done.append(answer)
            return done, None
        except Exception as error:
            return done, f"{type(error).__name__}: {error}"
