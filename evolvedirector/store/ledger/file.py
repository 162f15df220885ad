"""The SQLite file under the ledger: opened with its schema, written in whole transactions."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.store.errors import DiskFullError, StoreError
from evolvedirector.store.ledger.schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION

Row = tuple[Any, ...]


class LedgerFile:
    """Hold an open ledger file: ask it, and write to it in transactions.

    Args:
        path: Where it lies.
        connection: To a file whose schema is the newest; `for_writing` and `for_reading` open one.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def for_writing(cls, path: Path) -> LedgerFile:
        """Open a file, made when missing and brought up to date when older.

        Raises:
            UserError: The file was written by another schema version.
        """
        try:
            # a round in the background writes from its own thread, and nobody else writes meanwhile
            connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")  # unsafe on network file systems: docs/guarantees.md
            connection.execute("PRAGMA synchronous=FULL")
            file = cls(path, connection)
            version = file._migrate()
        except sqlite3.OperationalError as error:
            raise _not_writable(path, error) from error
        if version != SCHEMA_VERSION:
            file.close()
            raise UserError(
                f"{path} has ledger schema {version}. This version reads schema {SCHEMA_VERSION}. "
                "Use the evolvedirector version that wrote it, or start a new root."
            )
        return file

    @classmethod
    def for_reading(cls, path: Path) -> LedgerFile:
        """Open a file that somebody else may be writing, changing nothing, not even its journal mode.

        A file of an older schema is read from a copy that is brought up to date.

        Raises:
            StoreError: It is no ledger of this version.
        """
        problem = "cannot be read"
        # `immutable` reads a ledger on a read-only disk, where SQLite may not make its shared-memory file
        for options in ("mode=ro", "mode=ro&immutable=1"):
            connection = None
            try:
                connection = _open_to_read(path, options)
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version in MIGRATIONS or version == 0:  # 0: its first writer stopped before the tables were made
                    connection = _copy(connection)
                    version = cls(path, connection)._migrate()
                if version == SCHEMA_VERSION:
                    return cls(path, connection)
                problem = f"has schema {version}; this version reads schema {SCHEMA_VERSION}"
            except sqlite3.DatabaseError as error:
                problem = f"cannot be read ({error})"
            if connection is not None:
                connection.close()
        raise StoreError(
            f"The ledger '{path}' {problem}. The report needs the ledger that the run wrote. Use the version of "
            "evolvedirector that wrote it, or restore the file from a copy."
        )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._connection.close()

    def _migrate(self) -> int:
        """Make the tables of an empty file, bring an older one forward step by step; return the schema reached."""
        version = self.row("PRAGMA user_version")[0]
        if version == 0:
            with self.transaction():
                self._execute_all(SCHEMA)
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            return SCHEMA_VERSION
        while version in MIGRATIONS:
            with self.transaction():
                self._execute_all(MIGRATIONS[version])
                version += 1
                self._connection.execute(f"PRAGMA user_version={version}")
        return version

    def _execute_all(self, statements: str) -> None:
        for statement in filter(str.strip, statements.split(";")):
            self._connection.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write everything or nothing.

        Raises:
            DiskFullError: There is no space; nothing was written.
        """
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
            if isinstance(error, sqlite3.OperationalError) and ("readonly" in str(error) or "I/O" in str(error)):
                raise _not_writable(self.path, error) from error
            raise

    def write_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row, in one transaction."""
        with self.transaction() as connection:
            connection.executemany(statement, list(rows))

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a query that sums up or is limited."""
        return self._connection.execute(query, values).fetchall()

    def row(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Return the first row; None where there is none."""
        return self._connection.execute(query, values).fetchone()

    def stream(self, query: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """Yield the rows of a query that may have many."""
        return iter(self._connection.execute(query, values))

    def select(self, query: str, keys: Sequence[str]) -> Iterator[Row]:
        """Yield the rows of a query with `IN ({})` for these keys, a few hundred keys at a time.

        A query that groups is answered once for each few hundred keys: add its rows up.
        """
        for start in range(0, len(keys), 500):  # SQLite allows 999 parameters on old builds
            part = keys[start : start + 500]
            yield from self._connection.execute(query.format(",".join("?" * len(part))), part)


def _not_writable(path: Path, error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"The ledger '{path}' cannot be written: {error}. Its folder must be one where this user may write, on a disk"
        " that works and has room. Change the permissions, free some space, or name another root."
    )


def _open_to_read(path: Path, options: str) -> sqlite3.Connection:
    """Open a database; from a disk that may not be written, a copy where its last transactions are in its log still.

    `immutable` alone would leave the log out without a word.
    """
    log = path.with_name(f"{path.name}-wal")
    if "immutable" not in options or not log.exists() or log.stat().st_size == 0:
        return sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True, isolation_level=None, timeout=10)
    with tempfile.TemporaryDirectory() as folder:
        for file in (path, log):
            shutil.copyfile(file, Path(folder) / file.name)
        return _copy(sqlite3.connect(Path(folder) / path.name, isolation_level=None))


def _copy(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Copy a database into a nameless one that SQLite keeps in memory, or on disk when it is large, and deletes."""
    copy = sqlite3.connect("", isolation_level=None)
    connection.backup(copy)
    connection.close()
    return copy
