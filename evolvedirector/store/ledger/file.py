"""The SQLite file under the ledger: opened with its schema, written in whole transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolvedirector.store.errors import DiskFullError
from evolvedirector.store.ledger.schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION


class LedgerFile:
    """Open a ledger's file and write to it in transactions.

    Args:
        path: The SQLite file; made when missing.

    Raises:
        ValueError: The file was written by another schema version.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        self._connection.execute("PRAGMA journal_mode=WAL")  # unsafe on network file systems: docs/guarantees.md
        self._connection.execute("PRAGMA synchronous=FULL")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with self._transaction():
                self._execute_all(SCHEMA)
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            return
        version = self._migrate(version)
        if version != SCHEMA_VERSION:
            self._connection.close()
            raise ValueError(
                f"{self.path} has ledger schema {version}. This version reads schema {SCHEMA_VERSION}. "
                "Use the evolvedirector version that wrote it, or start a new root."
            )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._connection.close()

    def _migrate(self, version: int) -> int:
        """Bring the file from a schema to the newest that can be reached, one transaction a step; return that one."""
        while version in MIGRATIONS:
            with self._transaction():
                self._execute_all(MIGRATIONS[version])
                version += 1
                self._connection.execute(f"PRAGMA user_version={version}")
        return version

    def _execute_all(self, statements: str) -> None:
        for statement in filter(str.strip, statements.split(";")):
            self._connection.execute(statement)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:  # on a full disk SQLite may have rolled back already
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise DiskFullError(
                    f"The disk is full: {self.path} could not be written. Everything recorded before is safe. "
                    "Free some space and run the same command again with `--ckpt_path last`."
                ) from error
            raise

    def _many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._transaction() as connection:
            connection.executemany(statement, list(rows))

    def _select(self, statement: str, keys: Sequence[str]) -> Iterator[tuple]:
        for start in range(0, len(keys), 500):  # SQLite allows 999 parameters on old builds
            part = keys[start : start + 500]
            yield from self._connection.execute(statement.format(",".join("?" * len(part))), part)
