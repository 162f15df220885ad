"""How often a student fails each kind of change of each category of subjects, and how sure that is. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evolvedirector.evaluation.intervals import wilson_interval
from evolvedirector.pairs.pair_records import ChangeKind
from evolvedirector.records import Tally


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """A kind of change of the subjects of one category."""

    category: str
    kind: ChangeKind


@dataclass(frozen=True, slots=True)
class CellRate:
    """How often the student fails in a cell.

    Args:
        share: Estimate of the failing share, 0 to 1.
        low: Lower end of its interval.
        high: Upper end.
        looked: Looks behind it, older rounds counted less.
        failed: Of these.
    """

    share: float
    low: float
    high: float
    looked: float = 0.0
    failed: float = 0.0


Seen = Mapping[Cell, Tally]
"""What one round saw, by cell."""


def remembered_counts(rounds: Sequence[Seen], memory: float) -> dict[Cell, tuple[float, float]]:
    """Add up what rounds saw, the newest in full and each one before it `memory` times as much: the student changes.

    n = sum_k memory^k looked_k, k rounds ago; the failed ones likewise.

    Args:
        rounds: Oldest first.
        memory: 0 to 1.

    Returns:
        Looked and failed by cell.
    """
    counts: defaultdict[Cell, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for ago, seen in enumerate(reversed(rounds)):
        for cell, tally in seen.items():
            looked, failed = counts[cell]
            counts[cell] = looked + memory**ago * tally.looked, failed + memory**ago * tally.failed
    return dict(counts)


def cell_rates(
    cells: Iterable[Cell], rounds: Sequence[Seen], memory: float, prior_looks: float, z: float = 1.0
) -> dict[Cell, CellRate]:
    """Estimate the failing share of each cell, with the interval of Wilson (1927) at z standard deviations.

    A category is looked at a few times in a round, so its own counts are joined by those of the kind over all
    categories, worth `prior_looks` looks. One failing look stands before all others: of a kind that nobody has looked
    at everything is taken to fail.

        p_kind = (1 + failed of the kind) / (1 + looked of the kind)
        share = (failed + prior_looks p_kind) / (looked + prior_looks)

    Args:
        cells: All there are.
        rounds: What was seen, oldest first.
        memory: What a round before counts, see `remembered_counts`.
        prior_looks: What a kind as a whole says of one of its cells, in looks; above 0.
        z: Standard deviations of the interval.
    """
    counts = remembered_counts(rounds, memory)
    of_kind: defaultdict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for cell, (looked, failed) in counts.items():
        before = of_kind[cell.kind]
        of_kind[cell.kind] = before[0] + looked, before[1] + failed
    rates = {}
    for cell in sorted(set(cells)):
        looked, failed = counts.get(cell, (0.0, 0.0))
        all_looked, all_failed = of_kind[cell.kind]
        prior = (1 + all_failed) / (1 + all_looked)
        trials, fails = looked + prior_looks, failed + prior_looks * prior
        low, high = wilson_interval(fails, trials, z) or (0.0, 1.0)
        rates[cell] = CellRate(fails / trials, low, high, looked, failed)
    return rates
