"""Which parts may be asked for a measurement without anybody's consent: those that are known to cost nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evolvedirector.records.part import OnDevice, Priced, requests_in_flight_of
from evolvedirector.transport.endpoint import Endpoint

EMBEDDED = "evolvedirector.worlds."
"""What the classes of the embedded worlds are called."""
_OWN = "evolvedirector."


@dataclass(frozen=True, slots=True)
class AskingCost:
    """What it takes to ask a part.

    Args:
        is_free: Whether it is known to cost nothing; everything else needs consent.
        price_usd: Of one answer. None: nobody says it.
        is_play: Whether its prices are those of an embedded world, where nobody is paid.
    """

    is_free: bool
    price_usd: float | None
    is_play: bool = False

    def told(self, what: str = "a call") -> str:
        """Say it in words.

        Args:
            what: One answer.
        """
        if self.is_play and self.price_usd:
            return f"{self.price_usd:.4g} USD {what}, play money"
        if self.is_free:
            return "free"
        return f"price of {what} unknown" if self.price_usd is None else f"{self.price_usd:.4g} USD {what}"


def asking_cost(part: object, listed_usd: float | None = None, within: frozenset[int] = frozenset()) -> AskingCost:
    """Say whether asking a part is known to cost nothing, and what is known of its price.

    A price of 0 that it states makes it free, and so does work in this process by a class of ours or by one that says
    what memory it takes. A part that says nothing of itself may be the client of a service: it counts as paid, at an
    unknown price. So does one that holds such a part.

    Args:
        part: Teacher, judge, writer, reward or embedder.
        listed_usd: What the budget charges for its answers. None: nothing.
        within: Parts that it belongs to, by `id`: they are looked at already.
    """
    own = _own_price_usd(part)
    price = max((usd for usd in (own, listed_usd) if usd is not None), default=None)
    within |= {id(part)}
    held = [inner for inner in _held_by(part) if id(inner) not in within]
    if any(not asking_cost(inner, within=within).is_free for inner in held):
        return AskingCost(False, price or None)
    if type(part).__module__.startswith(EMBEDDED):
        return AskingCost(True, price or 0.0, is_play=bool(price))
    if price:
        return AskingCost(False, price)
    if isinstance(part, Priced):
        return AskingCost(own == 0.0, own)
    asks_service = requests_in_flight_of(part) > 0 or any(isinstance(value, Endpoint) for value in _values(part))
    works_here = isinstance(part, OnDevice) or type(part).__module__.startswith(_OWN)
    return AskingCost(works_here and not asks_service, 0.0 if works_here and not asks_service else None)


def _own_price_usd(part: object) -> float | None:
    """Return what a part says; what a service is asked with may hold its price as a number."""
    if not isinstance(part, Priced):
        return None
    told: object = part.price_usd
    return part.price_usd() if callable(told) else told if isinstance(told, int | float) else None


def _held_by(part: object) -> Iterator[object]:
    """Yield the parts that a part is made of; isinstance would ask for fingerprints, which may need models' files."""
    for value in _values(part):
        if hasattr(type(value), "fingerprint") or "fingerprint" in getattr(value, "__dict__", {}):
            yield value


def _values(part: object) -> Iterator[object]:
    for value in getattr(part, "__dict__", {}).values():
        if isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, list | tuple):
            yield from value
        else:
            yield value
