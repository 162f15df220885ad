"""What a run is built of: the seam of every part, and one small seam for each thing that only some parts can do.

A capability is asked for with `isinstance`, never with `getattr`: a part has it when it has the member, with the
meaning that is written here. Parts cross to other processes as class path and arguments, so weights, clients and open
files are made at the first call, not in the constructor.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Part(Protocol):
    """A teacher, judge, writer, policy, reward, encoder, codec or family."""

    @property
    def fingerprint(self) -> str:
        """Name the model, its revision and every parameter that changes what it answers; part of every cache key."""
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A part that can say whether it would work (a key, a host, a folder, a model) before anything is paid for."""

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def verify(self) -> Any:
        """Raise one clear error where it would not work; costs nothing and loads no weights."""
        ...


@runtime_checkable
class Priced(Protocol):
    """A part whose answers cost money. One without this seam is free."""

    def price_usd(self) -> float | None:
        """Return what one answer costs in USD; None where nobody has told it."""
        ...


@runtime_checkable
class OnDevice(Protocol):
    """A part that takes memory of a device while it works."""

    def estimated_bytes(self) -> int:
        """Return what its weights take, in bytes; 0 where its files are not there to be read."""
        ...


@runtime_checkable
class Remote(Protocol):
    """A part that asks a service: one process asks for all ranks, within the limits of one key."""

    @property
    def requests_in_flight(self) -> int:
        """Return how many requests it keeps open at once; 0 where it works in this process after all."""
        ...


@runtime_checkable
class Closable(Protocol):
    """A part that holds memory or connections."""

    def close(self) -> Any:
        """Let go of them; the next call loads again."""
        ...
