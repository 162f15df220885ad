"""What a run is built of: the seam of every part, and one small seam for each thing that only some parts can do.

A capability is asked for with `isinstance`, never with `getattr`: a part has it when it has the member, with the
meaning that is written here. Parts cross to other processes as class path and arguments, so weights, clients and open
files are made at the first call, not in the constructor.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    def estimated_bytes(self) -> int | None:
        """Return what its weights take, in bytes; None where its files are not there to be read."""
        ...


@runtime_checkable
class Remote(Protocol):
    """A part that asks a service: one process asks for all ranks, within the limits of one key."""

    @property
    def requests_in_flight(self) -> int:
        """Return how many requests it wants to be handed at once; 0 where it works in this process after all."""
        ...


@runtime_checkable
class Closable(Protocol):
    """A part that holds memory or connections."""

    def close(self) -> Any:
        """Let go of them; the next call loads again."""
        ...


@runtime_checkable
class HoldsParts(Protocol):
    """Whoever holds parts: a LightningModule, a datamodule, a callback. What it names here is verified before a run."""

    def parts(self) -> Mapping[str, Part]:
        """Name each part by the place where it is written, such as `judge`, `teachers.flux` or `text_encoder`."""
        ...


def verify_parts(*parts: object) -> None:
    """Let every part that can check itself do so, before anything is spent.

    Args:
        parts: Those that are not `Verifiable`, and None, are passed over.

    Raises:
        ValueError: The first part that cannot work says why.
    """
    for part in parts:
        if isinstance(part, Verifiable):
            part.verify()


def close_parts(*parts: object) -> None:
    """Close every part, also when one of them fails to; its error is raised after the others are closed.

    Args:
        parts: Those that are not `Closable`, and None, are passed over.
    """
    failed: Exception | None = None
    for part in parts:
        try:
            if isinstance(part, Closable):
                part.close()
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise failed


def price_of(*parts: object, times: float = 1.0) -> float | None:
    """Add up what one answer of each part costs in USD; None where one does not know its price.

    Args:
        parts: Those that are not `Priced`, and None, are free.
        times: Answers of each.
    """
    total = 0.0
    for part in parts:
        if isinstance(part, Priced):
            price = part.price_usd()
            if price is None:
                return None
            total += price
    return times * total


def bytes_of(*parts: object) -> list[int]:
    """List what each part needs on a device, in bytes.

    Args:
        parts: Those that are not `OnDevice`, and None, need 0.
    """
    return [int(part.estimated_bytes() or 0) if isinstance(part, OnDevice) else 0 for part in parts]


def requests_in_flight_of(*parts: object) -> int:
    """Return how many requests the parts keep open at once; over 0 where one asks a service, so that one process asks.

    Args:
        parts: Those that are not `Remote`, and None, work in this process: 0.
    """
    return max((int(part.requests_in_flight) for part in parts if isinstance(part, Remote)), default=0)
