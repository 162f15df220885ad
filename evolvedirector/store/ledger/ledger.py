"""The books of a dataset root: one file, one book for each subject. Only the driver (rank 0) writes to it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from evolvedirector.store.ledger.calls import CallBook
from evolvedirector.store.ledger.faults import FaultBook
from evolvedirector.store.ledger.file import LedgerFile
from evolvedirector.store.ledger.looks import LookBook
from evolvedirector.store.ledger.prompts import PromptBook
from evolvedirector.store.ledger.rounds import RoundBook
from evolvedirector.store.ledger.rows import Spend


class Ledger:
    """Keep the books of one dataset root: `prompts`, `calls`, `looks`, `rounds` and `faults`.

    Every public method of a book is one transaction: after it returns, a kill loses nothing of it. Asking twice gives
    the row that is already there, so that a repeated round costs nothing.

    Args:
        path: The SQLite file; made when missing. Or a file that is open already.

    Raises:
        ValueError: The file was written by another schema version.
    """

    def __init__(self, path: Path | LedgerFile) -> None:
        self.file = path if isinstance(path, LedgerFile) else LedgerFile.for_writing(Path(path))
        self.prompts = PromptBook(self.file)
        self.calls = CallBook(self.file)
        self.looks = LookBook(self.file)
        self.rounds = RoundBook(self.file)
        self.faults = FaultBook(self.file)

    @classmethod
    def for_reading(cls, path: Path) -> Ledger:
        """Open the books to read them, changing nothing, while somebody else may be writing.

        Raises:
            StoreError: It is no ledger of this version.
        """
        return cls(LedgerFile.for_reading(Path(path)))

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self.file.close()

    def spend(self, round_id: str | None = None) -> Spend:
        """Sum what was spent in one round, or in all when `round_id` is None.

        A call without an answer, lost or still open, costs its teacher's price: it may have been billed.
        """
        key: tuple[str, ...] = (round_id,) if round_id else ()
        of_calls, of_looks = "calls_by_rounds WHERE round_id=?", "looks_by_rounds WHERE round_id=?"
        if not round_id:  # the rows count all their tries: no need to book them
            of_calls = "(SELECT *, 1 + lost + repeats AS calls, lost + (status = 'submitted') AS silent FROM calls)"
            of_looks = "(SELECT *, 1 + lost AS looks FROM looks)"
        calls, lost, cost = self.file.row(
            "SELECT COALESCE(SUM(n), 0), COALESCE(SUM(l), 0), COALESCE(SUM(paid + silent * price), 0) FROM ("
            "SELECT SUM(calls) AS n, SUM(lost) AS l, SUM(cost_usd) AS paid, SUM(silent) AS silent, "
            f"MAX(price_usd) AS price FROM {of_calls} GROUP BY teacher)",
            key,
        )
        looks, lost_looks, judged = self.file.row(
            f"SELECT COALESCE(SUM(looks), 0), COALESCE(SUM(lost), 0), COALESCE(SUM(cost_usd), 0) FROM {of_looks}", key
        )
        return Spend(calls, looks, lost + lost_looks, cost + judged)
