"""What a pair builder is asked for, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from evolvedirector.pairs.pair_book import PairRow
from evolvedirector.pairs.pair_records import ChangeKind, Subject


@dataclass(frozen=True, slots=True)
class PairWish:
    """Wish for one pair of a subject.

    Args:
        subject: Of the builder's source.
        kind: Of change.
        number: Tells several pairs of one subject and kind apart; with another one it is another pair.
    """

    subject: Subject
    kind: ChangeKind
    number: int = 0


@dataclass(slots=True)
class MadePairs:
    """What became of the pairs that were wished for.

    Args:
        kept: With all that is known of them.
        rejected: Likewise.
        open: Held back by a limit or an outage.
    """

    kept: list[PairRow] = field(default_factory=list)
    rejected: list[PairRow] = field(default_factory=list)
    open: int = 0

    def add(self, rows: Sequence[PairRow], held_back: int) -> None:
        """Add what became of one pass."""
        self.kept += [row for row in rows if row.status == "kept"]
        self.rejected += [row for row in rows if row.status != "kept"]
        self.open += held_back
