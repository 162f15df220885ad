"""What a pair builder made: kept and rejected by cause, what it cost, and what is still open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evolvedirector.pairs.pair_book import FateCounts, StageSpend
from evolvedirector.pairs.pair_records import STAGES


@dataclass(frozen=True, slots=True)
class PairFigures:
    """Figures of a root, all builds together; `open_pairs`, `held_back` and `failures` of the last build alone."""

    kept: Mapping[str, int]
    """By kind of change."""
    rejected: Mapping[str, int]
    """By cause: a stage that refused, the score that was too low, `subject`, `mask` or `duplicate`."""
    rejected_of_kind: Mapping[str, int]
    editing: int
    """Kept pairs that carry a mask and a source."""
    spend: Mapping[str, StageSpend]
    open_pairs: int = 0
    held_back: Mapping[str, int] = field(default_factory=dict)
    """Calls that were not made, by the limit of the budget."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Failures by stage and reason."""

    @classmethod
    def of(cls, counts: FateCounts, spend: Mapping[str, StageSpend], **of_build: Any) -> PairFigures:
        """Add up what a book holds: its `counts` and `spend`."""
        kept: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        of_kind: Counter[str] = Counter()
        editing = 0
        for (kind, use, status, cause), count in counts.items():
            if status == "kept":
                kept[kind] += count
                editing += count * (use == "editing")
            else:
                rejected[cause] += count
                of_kind[kind] += count
        return cls(kept, rejected, of_kind, editing, spend, **of_build)

    @property
    def decided(self) -> int:
        """Count the pairs that met their fate."""
        return sum(self.kept.values()) + sum(self.rejected.values())

    def lines(self) -> list[str]:
        """Say it in sentences, one line each."""
        kept, decided = sum(self.kept.values()), self.decided
        said = [f"{kept} of {decided} pairs kept{_listed(self.kept)}; {self.editing} for editing."]
        if self.rejected:
            shares = ", ".join(
                f"{cause} {count / decided:.0%}" for cause, count in Counter(self.rejected).most_common()
            )
            said.append(f"Rejected, as a share of all pairs: {shares}.")
        for stage in STAGES:
            if (used := self.spend.get(stage)) is None:
                continue
            said.append(
                f"{stage}: {used.calls} calls ({used.lost} lost), {used.seconds:.1f} s, {used.usd:.2f} USD"
                + (f"; per kept pair {used.seconds / kept:.3f} s, {used.usd / kept:.4f} USD." if kept else ".")
            )
        if self.open_pairs:
            limits = ", ".join(f"{limit} held back {count}" for limit, count in self.held_back.items())
            faults = ", ".join(f"{count} x {reason}" for reason, count in self.failures.items())
            why = "; ".join(filter(None, (limits, faults))) or "the build ended first"
            said.append(f"{self.open_pairs} pairs are open ({why}): the same command goes on with them.")
        return said


def _listed(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count} {name}' for name, count in counts.items())})" if counts else ""
