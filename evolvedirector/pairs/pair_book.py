"""The SQLite record of a pair builder: what each stage was asked and answered, and what became of each pair.

A file of its own beside the root's ledger: a stage may have a hundred thousand answers, and the ledger's schema stays
as it is. One process writes, the one that holds the lock of the dataset root.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from evolvedirector.pairs.pair_records import PairReply, StageName, reply_from_json, reply_to_json
from evolvedirector.store import DiskFullError, StoreError

FILE = "pairs.sqlite"
SCHEMA_VERSION = 1
# `status` of an answer is done, refused, failure, or submitted: sent and, after a kill, never answered. `lost` counts
# those tries, and `repeats` the failures before this one and the answers whose files are gone: each is a call that may
# have cost `price_usd`.
_SCHEMA = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, fingerprint TEXT NOT NULL, status TEXT NOT NULL,
    body TEXT NOT NULL DEFAULT '{}', seconds REAL NOT NULL DEFAULT 0, cost_usd REAL NOT NULL DEFAULT 0,
    price_usd REAL NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0, repeats INTEGER NOT NULL DEFAULT 0);
CREATE INDEX answers_by_stage ON answers (stage);
CREATE TABLE pairs (
    pair_id TEXT PRIMARY KEY, subject TEXT NOT NULL, kind TEXT NOT NULL, use TEXT NOT NULL, status TEXT NOT NULL,
    cause TEXT NOT NULL, image_sha256 TEXT, looks TEXT, body TEXT NOT NULL, published INTEGER NOT NULL DEFAULT 0);
CREATE INDEX pairs_by_subject ON pairs (subject, status);
CREATE INDEX pairs_by_image ON pairs (image_sha256);
CREATE INDEX pairs_by_fate ON pairs (kind, use, status, cause);
CREATE INDEX pairs_unpublished ON pairs (status, published);
"""


FateCounts = Mapping[tuple[str, str, str, str], int]
"""Number of pairs by kind, use, status and cause."""


@dataclass(frozen=True, slots=True)
class StageSpend:
    """What a stage has used up: calls (lost and repeated ones included), seconds and money."""

    calls: int = 0
    lost: int = 0
    seconds: float = 0.0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class PairRow:
    """What became of a pair."""

    pair_id: str
    subject: str
    """Id of the subject: the name of its content."""
    kind: str
    use: str
    status: str
    """`kept` or `rejected`."""
    cause: str
    """Of a rejection, one word: the stage, or the score that was too low."""
    image_sha256: str | None
    looks: str | None
    """Hash of how the picture looks, in hex; near pictures have near hashes."""
    body: Mapping[str, Any]
    """Everything else: prompt, change, scores, seeds, fingerprints, files, reason."""


class PairBook:
    """Keep the answers of stages and the fate of pairs.

    Args:
        path: The file.
        connection: To it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def for_writing(cls, root: Path) -> PairBook:
        """Open the book of a dataset root, made when missing; the caller holds the root's lock.

        Raises:
            StoreError: It cannot be written, or is of another version.
        """
        path = root / FILE
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=30)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            book = cls(path, connection)
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                with book.transaction():
                    for statement in filter(str.strip, _SCHEMA.split(";")):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except sqlite3.DatabaseError as error:
            raise _unusable(path, str(error)) from error
        return book._of_this_version()

    @classmethod
    def for_reading(cls, root: Path) -> PairBook:
        """Open the book of a root that somebody else may be writing.

        Raises:
            StoreError: There is none, or it is of another version.
        """
        path = root / FILE
        try:
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            return cls(path, connection)._of_this_version()
        except sqlite3.DatabaseError as error:
            raise _unusable(path, str(error)) from error

    def _of_this_version(self) -> PairBook:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            self.close()
            raise _unusable(self.path, f"it has schema {version}, not {SCHEMA_VERSION}")
        return self

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._connection.close()

    def __enter__(self) -> PairBook:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

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
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise DiskFullError(
                    f"The disk is full: '{self.path}' could not be written. Everything recorded before is safe. Free"
                    " some space and give the same command again."
                ) from error
            raise

    def answers(self, keys: Sequence[str]) -> dict[str, PairReply]:
        """Return the answers that are final: what is done, and refusals."""
        query = "SELECT key, status, body FROM answers WHERE status IN ('done', 'refused') AND key IN ({})"
        return {key: reply_from_json(key, status, json.loads(b)) for key, status, b in self._select(query, keys)}

    def reserve(self, stage: StageName, fingerprint: str, keys: Sequence[str], price_usd: float) -> None:
        """Record questions before they are sent; one that was sent before and never answered counts as lost.

        One that was answered is sent again only where its files are gone.
        """
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO answers (key, stage, fingerprint, status, price_usd) VALUES (?,?,?,'submitted',?) "
                "ON CONFLICT (key) DO UPDATE SET lost = lost + (status = 'submitted'), "
                "repeats = repeats + (status IN ('failure', 'done')), "
                "cost_usd = cost_usd + (status = 'submitted') * price_usd, status = 'submitted'",
                [(key, stage, fingerprint, price_usd) for key in keys],
            )

    def settle(self, replies: Sequence[tuple[PairReply, float]]) -> None:
        """Record answers, each with the seconds that it took; their files are durable already. The first one counts."""
        sent = [(reply, seconds) for reply, seconds in replies if reply.sent]
        rows = [
            (reply.status, json.dumps(reply_to_json(reply), sort_keys=True), seconds, reply.cost_usd, reply.request_id)
            for reply, seconds in sent
        ]
        unsent = [(reply.request_id,) for reply, _ in replies if not reply.sent]
        with self.transaction() as connection:
            connection.executemany(
                "UPDATE answers SET status=?, body=?, seconds=seconds+?, cost_usd=cost_usd+? "
                "WHERE key=? AND status='submitted'",
                rows,
            )
            again = "status='submitted' AND key=? AND lost + repeats > 0"
            connection.executemany(
                f"UPDATE answers SET repeats = repeats - 1, status='failure' WHERE {again}",
                unsent,
            )
            connection.executemany("DELETE FROM answers WHERE status='submitted' AND key=?", unsent)

    def spend(self) -> dict[str, StageSpend]:
        """Return what each stage has used up so far."""
        rows = self._connection.execute(
            "SELECT stage, COUNT(*) + SUM(lost) + SUM(repeats), SUM(lost) + SUM(status = 'submitted'), SUM(seconds), "
            "SUM(cost_usd + (status = 'submitted') * price_usd) FROM answers GROUP BY stage"
        )
        return {stage: StageSpend(*figures) for stage, *figures in rows}

    def record(self, rows: Sequence[PairRow]) -> None:
        """Record what became of pairs; the first fate of a pair counts."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO pairs VALUES (?,?,?,?,?,?,?,?,?,0) ON CONFLICT (pair_id) DO NOTHING",
                [
                    (r.pair_id, r.subject, r.kind, r.use, r.status, r.cause, r.image_sha256, r.looks,
                     json.dumps(r.body, sort_keys=True))
                    for r in rows
                ],
            )  # fmt: skip

    def rows(self, pair_ids: Sequence[str]) -> dict[str, PairRow]:
        """Return those of these pairs that have met their fate, by id, in the order of the ids."""
        found = {row[0]: _row(row) for row in self._select(f"{_PAIRS} WHERE pair_id IN ({{}})", pair_ids)}
        return {pair_id: found[pair_id] for pair_id in pair_ids if pair_id in found}

    def forget(self, pair_ids: Sequence[str]) -> None:
        """Take back what became of pairs: they are decided anew."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM pairs WHERE pair_id = ?", [(each,) for each in pair_ids])

    def names_of(self, subjects: Sequence[str]) -> dict[str, str]:
        """Return, by id of a subject, the name under which pairs of it were made first."""
        query = "SELECT subject, body FROM pairs WHERE rowid IN (SELECT MIN(rowid) FROM pairs WHERE subject IN ({}) "
        found = self._select(query + "GROUP BY subject)", subjects)
        return {subject: json.loads(body)["subject"]["name"] for subject, body in found}

    def looks_of(self, subjects: Sequence[str]) -> dict[str, list[str]]:
        """Return how the kept pictures of these subjects look, as hashes by subject."""
        query = "SELECT subject, looks FROM pairs WHERE status='kept' AND looks IS NOT NULL AND subject IN ({})"
        found: dict[str, list[str]] = {}
        for subject, looks in self._select(query, subjects):
            found.setdefault(subject, []).append(looks)
        return found

    def images(self, shas: Sequence[str]) -> set[str]:
        """Return which of these pictures a kept pair has."""
        query = "SELECT DISTINCT image_sha256 FROM pairs WHERE status='kept' AND image_sha256 IN ({})"
        return {row[0] for row in self._select(query, shas)}

    def counts(self) -> FateCounts:
        """Count pairs by kind, use, status and cause."""
        rows = self._connection.execute("SELECT kind, use, status, cause, COUNT(*) FROM pairs GROUP BY 1, 2, 3, 4")
        return {(kind, use, status, cause): count for kind, use, status, cause, count in rows}

    def pairs(self, status: str | None = None, cause: str | None = None, limit: int | None = None) -> list[PairRow]:
        """List pairs in the order in which they were decided.

        Args:
            status: `kept` or `rejected`. None: both.
            cause: Of the rejection. None: any.
            limit: At most so many. None: all.
        """
        limited = "" if limit is None else f" LIMIT {int(limit)}"
        where = "(?1 IS NULL OR status = ?1) AND (?2 IS NULL OR cause = ?2)"
        return self._rows(f"WHERE {where} ORDER BY rowid{limited}", (status, cause))

    def unpublished(self) -> list[PairRow]:
        """List the kept pairs of which no revision is known to hold a sample."""
        return self._rows("WHERE status = 'kept' AND published = 0 ORDER BY rowid", ())

    def unpublished_count(self) -> int:
        """Count them."""
        query = "SELECT COUNT(*) FROM pairs WHERE status = 'kept' AND published = 0"
        return int(self._connection.execute(query).fetchone()[0])

    def files(self) -> Iterator[str]:
        """Yield the sha256 of each file that an answer of a stage names."""
        for (body,) in self._connection.execute("SELECT body FROM answers WHERE status = 'done'"):
            yield from (str(file["sha256"]) for file in json.loads(body)["files"].values())

    def problems(self) -> list[str]:
        """List what SQLite finds wrong with the file."""
        lines = [line for (line,) in self._connection.execute("PRAGMA integrity_check(5)")]
        return [line for line in lines if line != "ok"]

    def mark_published(self, pair_ids: Sequence[str]) -> None:
        """Record that a revision holds these pairs; it is there already."""
        with self.transaction() as connection:
            connection.executemany("UPDATE pairs SET published = 1 WHERE pair_id = ?", [(each,) for each in pair_ids])

    def _rows(self, where: str, values: Sequence[Any]) -> list[PairRow]:
        return [_row(row) for row in self._connection.execute(f"{_PAIRS} {where}", values)]

    def _select(self, query: str, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            yield from self._connection.execute(query.format(",".join("?" * len(part))), part).fetchall()


_PAIRS = "SELECT pair_id, subject, kind, use, status, cause, image_sha256, looks, body FROM pairs"


def _row(row: tuple[Any, ...]) -> PairRow:
    pair_id, subject, kind, use, status, cause, image_sha256, looks, body = row
    return PairRow(pair_id, subject, kind, use, status, cause, image_sha256, looks, json.loads(body))


def _unusable(path: Path, problem: str) -> StoreError:
    return StoreError(
        f"The record of pairs '{path}' cannot be used: {problem}. Allowed is the one that `evolvedirector pairs build`"
        " of this version made in a dataset root. Name that root, or build into a new one."
    )
