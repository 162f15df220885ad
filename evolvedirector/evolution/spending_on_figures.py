"""What the figures of a run may cost at most: their readers and teachers work outside of the budget of evolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from evolvedirector.judges.parts import requests_of

Rows: TypeAlias = dict[str, str]


@dataclass(frozen=True, slots=True)
class Reader:
    """A judge that reads figures.

    Args:
        who: Where it stands, as `SkillAccuracy.reader`.
        judge: May offer `price_usd()`, the price of a look.
        looks: Most looks of the whole run. None: nothing bounds them.
    """

    who: str
    judge: object
    looks: int | None

    @property
    def price_usd(self) -> float | None:
        """Return the price of a look: 0 for one that works here, None for one whose price nobody knows."""
        tell = getattr(self.judge, "price_usd", None)
        return tell() if callable(tell) else 0.0

    @property
    def costs_nothing(self) -> bool:
        """Whether it works here and for nothing."""
        return self.price_usd == 0.0 and requests_of(self.judge) == 0

    def most_usd(self) -> float | None:
        """Return the most its looks may cost in USD; None where a price or an end is missing."""
        if self.price_usd == 0.0:
            return 0.0
        return None if self.price_usd is None or self.looks is None else self.looks * self.price_usd


def figures_rows(
    readers: Sequence[Reader], images_usd: Mapping[str, float | None], evolution_usd: float | None
) -> Rows:
    """Say what the figures may cost beside evolution, reader by reader, and what all of it comes to.

    Args:
        readers: Of all callbacks that measure; those that cost nothing are left out.
        images_usd: Most that the teacher images of a callback may cost, by its name. None: a price is missing.
        evolution_usd: Most that images and looks of evolution may cost. None: a price or a limit is missing.
    """
    rows: Rows = {}
    for reader in readers:
        if reader.costs_nothing:
            continue
        rows[f"looks of {reader.who} (outside the budget)"] = _looks_row(reader)
    for who, cost in images_usd.items():
        said = "not known: a price is missing" if cost is None else f"{cost:,.2f} USD"
        rows[f"images of {who} (most, once, outside the budget)"] = said
    if rows:
        parts = [*(reader.most_usd() for reader in readers), *images_usd.values(), evolution_usd]
        known = [part for part in parts if part is not None]
        all_known = len(known) == len(parts)
        total = f"{sum(known):,.2f} USD" if all_known else "not known: a price or a limit is missing above"
        rows["cost in all (most)"] = f"{total}; a hosted writer comes on top" if all_known else total
    return rows


def _looks_row(reader: Reader) -> str:
    price, most = reader.price_usd, reader.most_usd()
    looks = "not bounded" if reader.looks is None else f"at most {reader.looks:,}"
    if price is None:
        return f"{looks}, price of a look unknown: set its cost_usd_per_look"
    if price == 0.0:
        return looks
    return f"{looks}, {price:.4g} USD each" if most is None else f"{looks} x {price:.4g} USD = {most:,.2f} USD"
