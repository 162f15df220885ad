"""What kept a teacher, the judge or the writer from answering, in their own words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from evolvedirector.store.ledger.file import LedgerFile
from evolvedirector.store.ledger.rows import Fault

MAX_REASONS = 20
"""Different reasons kept for one part in one round; services put ids and times into theirs."""
OTHER_REASONS = "other reasons"


MAX_TOLD = 2
"""Reasons told of one part in a line."""


def told_faults(faults: Sequence[Fault]) -> str:
    """Say in one line who gave no answer, how often and why: the most frequent reasons first.

    Args:
        faults: As `FaultBook.of` lists them.
    """
    told = []
    for part in dict.fromkeys(fault.part for fault in faults):
        of_part = [fault for fault in faults if fault.part == part]
        reasons = [f"{fault.count} x {fault.reason}" for fault in of_part[:MAX_TOLD]]
        left = sum(fault.count for fault in of_part[MAX_TOLD:])
        told.append(f"{part} {', '.join(reasons)}" + (f", {left} x other reasons" if left else ""))
    return "; ".join(told)


class FaultBook:
    """Keep how often each part gave no answer that could be used, and why: what was never sent counts here too.

    Args:
        file: The ledger's file.
    """

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def add(self, round_id: str, part: str, reasons: Iterable[str]) -> None:
        """Count answers that were none; a round that is repeated adds those of its new tries.

        Args:
            round_id: The round, or the purchase of seeds.
            part: `judge`, `writer`, or `teacher` and its name.
            reasons: One for each answer, fit to be shown: without keys, one line, of bounded length.
        """
        counts = Counter(reasons)
        if not counts:
            return
        known = {fault.reason for fault in self.of(round_id) if fault.part == part}
        for reason in list(counts):
            if reason not in known and len(known) >= MAX_REASONS:
                counts[OTHER_REASONS] += counts.pop(reason)
            known.add(reason)
        self._file.write_many(
            "INSERT INTO faults VALUES (?,?,?,?) ON CONFLICT (round_id, part, reason) DO UPDATE SET "
            "count = count + excluded.count",
            [(round_id, part, reason, count) for reason, count in counts.items()],
        )

    def of(self, round_id: str | None = None) -> list[Fault]:
        """List what went wrong in one round, or under this root when `round_id` is None; by part, most frequent first.

        Args:
            round_id: The round, or the purchase of seeds.
        """
        where, key = ("WHERE round_id=?", (round_id,)) if round_id else ("", ())
        query = f"SELECT part, reason, SUM(count) FROM faults {where} GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2"
        return [Fault(*row) for row in self._file.rows(query, key)]
