"""The seam of who decides which pairs are made next, and the default: what fails, or may fail, comes first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from evolvedirector.errors import UserError
from evolvedirector.pairs.evolving.cells import Cell, CellRate, Seen, cell_rates
from evolvedirector.records import seed_of


@runtime_checkable
class PairPolicy(Protocol):
    """Say which pairs are made next. Pure: the same cells and rounds give the same pairs."""

    @property
    def fingerprint(self) -> str:
        """Name the rule, its version and every setting; with another one another round decides."""
        ...

    def rates(self, cells: Sequence[Cell], rounds: Sequence[Seen]) -> Mapping[Cell, CellRate]:
        """Estimate how often the student fails in each cell, from what rounds saw, oldest first."""
        ...

    def choose(self, rates: Mapping[Cell, CellRate], pairs: int, seed: int) -> Mapping[Cell, int]:
        """Share out a number of pairs over the cells; fewer may be chosen, and none of a cell."""
        ...


class FailingPairs:
    """Share pairs out in proportion to the failing share of each cell, taken at the upper end of its interval.

    In doubt a cell counts as failing: a few looks prove little. A cell whose interval lies below `mastered_below` gets
    nothing until later looks say otherwise; what no cell needs is not spent. A rule of ours: Toffee does not evolve its
    pairs.
    """

    def __init__(self, memory: float = 0.5, prior_looks: float = 4.0, mastered_below: float = 0.25) -> None:
        """Choose how evidence counts.

        Args:
            memory: What the looks of the round before count, 0 (nothing) to 1 (as much as those of this round).
            prior_looks: What a kind of change as a whole says of each category, in looks.
            mastered_below: Cells whose interval lies below it get no pairs, 0 to 1. 0: every cell gets some.

        Raises:
            UserError: One of them is out of range.
        """
        if not (0 <= memory <= 1 and prior_looks > 0 and 0 <= mastered_below < 1):
            raise UserError(
                f"memory is {memory}, prior_looks {prior_looks} and mastered_below {mastered_below}. Allowed are 0 to "
                "1, numbers above 0, and 0 to under 1. Write `memory: 0.5, prior_looks: 4, mastered_below: 0.25`."
            )
        self.memory, self.prior_looks, self.mastered_below = memory, prior_looks, mastered_below

    @property
    def fingerprint(self) -> str:
        """Name the rule and its settings."""
        return f"failing pairs 1 {self.memory!r} {self.prior_looks!r} {self.mastered_below!r}"

    def rates(self, cells: Sequence[Cell], rounds: Sequence[Seen]) -> Mapping[Cell, CellRate]:
        """Estimate the failing share of each cell, see `cell_rates`."""
        return cell_rates(cells, rounds, self.memory, self.prior_looks)

    def choose(self, rates: Mapping[Cell, CellRate], pairs: int, seed: int) -> Mapping[Cell, int]:
        """Share out the pairs by the upper ends of the intervals.

        Systematic sampling: with more cells than pairs each gets one with a chance in proportion, and a kind its share
        to within one pair, whatever the cells are called.

        Args:
            rates: By cell.
            pairs: To share out.
            seed: Of the lots.
        """
        failing = [cell for cell, rate in rates.items() if rate.high > 0 and rate.high >= self.mastered_below]
        failing.sort(key=lambda cell: (cell.kind, seed_of("cell", seed, cell.category)))
        whole = sum(rates[cell].high for cell in failing)
        place, chosen = seed_of("first cell", seed) / 2**63, {}
        for cell in failing:
            end = place + pairs * rates[cell].high / whole
            if (count := math.floor(end) - math.floor(place)) > 0:
                chosen[cell] = count
            place = end
        return chosen
