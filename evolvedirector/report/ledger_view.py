"""The ledger as a reader sees it while somebody else may be writing: opened read-only, asked for sums and samples."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from evolvedirector.store.errors import StoreError
from evolvedirector.store.ledger.calls import Ledger
from evolvedirector.store.ledger.schema import MIGRATIONS, SCHEMA_VERSION

Row = tuple[Any, ...]


class LedgerView(Ledger):
    """Read the books of a dataset root, changing nothing, not even the file's journal mode.

    Books of an older schema are read from a copy of their own that is brought up to date.

    Args:
        path: The SQLite file.

    Raises:
        StoreError: It is no ledger of this version.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        problem = "cannot be read"
        # `immutable` reads a ledger on a read-only disk, where SQLite may not make its shared-memory file
        for options in ("mode=ro", "mode=ro&immutable=1"):
            self._connection = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?{options}", uri=True, isolation_level=None, timeout=10
            )
            try:
                version = self._connection.execute("PRAGMA user_version").fetchone()[0]
                if version in MIGRATIONS:
                    self._connection = _copy(self._connection)
                    version = self._migrate(version)
                if version == SCHEMA_VERSION:
                    return
                problem = f"has schema {version}; this version reads schema {SCHEMA_VERSION}"
            except sqlite3.DatabaseError as error:
                problem = f"cannot be read ({error})"
            self._connection.close()
        raise StoreError(
            f"The ledger '{self.path}' {problem}. The report needs the ledger that the run wrote. Use the version of "
            "evolvedirector that wrote it, or restore the file from a copy."
        )

    def __enter__(self) -> LedgerView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def ancestry(self, revision_sha: str) -> list[Row]:
        """List (sha, number, round id) of the revisions that led to one, oldest first, without reading their files."""
        return self.rows(
            "WITH RECURSIVE past AS (SELECT * FROM revisions WHERE sha=? UNION ALL "
            "SELECT r.* FROM revisions r JOIN past ON r.sha = past.parent_sha) "
            "SELECT sha, number, round_id FROM past ORDER BY number",
            revision_sha,
        )

    def rows(self, query: str, *values: Any) -> list[Row]:
        """Return the rows of a query that sums up or is limited."""
        return self._connection.execute(query, values).fetchall()

    def stream(self, query: str, *values: Any) -> Iterator[Row]:
        """Yield the rows of a query that may have many."""
        return iter(self._connection.execute(query, values))

    def rows_of(self, query: str, keys: list[str]) -> Iterator[Row]:
        """Yield the rows of a query with one `IN ({})`, asked for some keys at a time."""
        return self._select(query, keys)

    def evenly(self, columns: str, table: str, where: str, most: int) -> tuple[list[Row], int]:
        """Return at most so many rows, spread evenly over the order in which they were written, and how many there are.

        The same ledger gives the same rows: nothing is drawn at random.

        Args:
            columns: What to select.
            table: From where.
            where: A condition.
            most: Rows at most.
        """
        total = self.rows(f"SELECT COUNT(*) FROM {table} WHERE {where}")[0][0]
        query = (
            f"SELECT {columns} FROM (SELECT *, ROW_NUMBER() OVER (ORDER BY rowid) - 1 AS place FROM {table} "
            f"WHERE {where}) WHERE (place + 1) * :most / :total > place * :most / :total"
        )
        if total == 0:
            return [], 0
        return self._connection.execute(query, {"most": min(most, total), "total": total}).fetchall(), total


def _copy(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Copy a database into a nameless one that SQLite keeps in memory, or on disk when it is large, and deletes."""
    copy = sqlite3.connect("", isolation_level=None)
    connection.backup(copy)
    connection.close()
    return copy
