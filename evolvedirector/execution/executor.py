"""Who carries requests to parts: the seam between the steps of a round and the processes that do the work.

A step says `executor.ask(part, method, requests)` and reads replies as they finish. Whether the part runs in this
process, on every rank or somewhere else is known to the executor alone. Parts cross to other processes as class path
and arguments; weights are loaded where they work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from evolvedirector.records.part import Part

Phase = Literal["write", "render", "judge", "teach", "score", "measure", "embed", "train"]
"""What a round does; to `measure` is to ask the student for its loss, where it stands to `render`."""
Tenants = Mapping[Phase, Mapping[str, Part]]
"""Who works in which phase, by a name that is the same on every rank."""


@runtime_checkable
class InStep(Protocol):
    """A part that is asked for whole chunks of requests, equally many on every rank: a student, sharded or not."""

    @property
    def chunk(self) -> int:
        """Return how many requests it takes together; what stands beside a request never changes its answer."""
        ...


class Executor(Protocol):
    """Carry requests to parts and bring back their replies."""

    def ask(self, part: Part, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Call a method of a part with the requests; yield its replies as they finish, in any order.

        The part's phase begins, so that nobody else holds memory. Closing the iterator cancels what has not begun.

        Args:
            part: One of the round's parts.
            method: Of the part: takes a sequence of requests, returns an iterator of replies.
            requests: A unit of work, or less.
        """
        ...

    def unit_of(self, part: Part) -> int:
        """Say how many requests a unit of a part has: between units the round reports and may stop."""
        ...

    def enter(self, phase: Phase) -> None:
        """Begin a phase: its tenants may stay in memory, all others let go of theirs."""
        ...
