"""The SQLite record of everything written, bought, judged and decided; only the driver (rank 0) opens it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evolvedirector.records import Decision, Evidence, ImageReply, Look, Prompt, ReplyStatus, WriteReply
from evolvedirector.store.errors import DiskFullError

SCHEMA_VERSION = 1

# One statement per table. A row in `calls` or `looks` exists from the moment before the request leaves (reserved), so a
# kill can lose an answer but never the fact that it was asked for; `lost` counts submissions whose answer never came,
# `repeats` those sent again after a failure.
_SCHEMA = """
CREATE TABLE prompts (
    id TEXT PRIMARY KEY, text TEXT NOT NULL, origin TEXT NOT NULL, skill TEXT NOT NULL,
    parent_id TEXT, lineage_id TEXT NOT NULL, width_px INTEGER, height_px INTEGER);
CREATE TABLE held_out (prompt_id TEXT PRIMARY KEY);
CREATE TABLE revisions (
    sha TEXT PRIMARY KEY, number INTEGER NOT NULL, parent_sha TEXT, round_id TEXT NOT NULL);
CREATE TABLE rounds (
    round_id TEXT PRIMARY KEY, number INTEGER NOT NULL, revision_sha TEXT NOT NULL, global_step INTEGER NOT NULL,
    child_sha TEXT, figures TEXT NOT NULL DEFAULT '{}');
CREATE TABLE calls (
    request_id TEXT PRIMARY KEY, round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, lineage_id TEXT NOT NULL,
    teacher TEXT NOT NULL, status TEXT NOT NULL, image_sha256 TEXT, reason TEXT NOT NULL DEFAULT '',
    cost_usd REAL NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0, repeats INTEGER NOT NULL DEFAULT 0);
CREATE INDEX calls_by_round ON calls (round_id);
CREATE INDEX calls_by_lineage ON calls (lineage_id);
CREATE TABLE looks (
    key TEXT PRIMARY KEY, round_id TEXT NOT NULL, judge TEXT NOT NULL, probability REAL, covered_mass REAL,
    reason TEXT NOT NULL DEFAULT '', lost INTEGER NOT NULL DEFAULT 0);
CREATE INDEX looks_by_round ON looks (round_id);
CREATE TABLE renders (
    round_id TEXT NOT NULL, request_id TEXT NOT NULL, image_sha256 TEXT NOT NULL, PRIMARY KEY (round_id, request_id));
CREATE TABLE writes (request_id TEXT PRIMARY KEY, round_id TEXT NOT NULL, reply TEXT NOT NULL);
CREATE TABLE evidence (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, kind TEXT NOT NULL, verdict TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (round_id, prompt_id, kind));
CREATE TABLE decisions (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (round_id, prompt_id, kind));
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a teacher, as recorded before it is sent."""

    request_id: str
    prompt_id: str
    lineage_id: str
    teacher: str


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A teacher's answer as recorded: the image is a blob, not bytes."""

    request_id: str
    prompt_id: str
    teacher: str
    status: ReplyStatus
    image_sha256: str | None
    reason: str
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent, lost submissions included in the calls."""

    teacher_calls: int = 0
    judge_calls: int = 0
    lost_calls: int = 0
    cost_usd: float = 0.0


class Ledger:
    """Keep the books of one dataset root.

    Every public method is one transaction: after it returns, a kill loses nothing of it. Asking twice gives the row
    that is already there, so that a repeated round costs nothing.

    Args:
        path: The SQLite file; made when missing.
        journal_mode: `WAL` on local disks; `TRUNCATE` on network file systems, where WAL is unsafe.

    Raises:
        ValueError: The file was written by another schema version.
    """

    def __init__(self, path: Path, journal_mode: str = "WAL") -> None:
        if journal_mode not in ("WAL", "TRUNCATE"):
            raise ValueError(f"journal_mode is {journal_mode!r}. Allowed: WAL, TRUNCATE. Write `WAL` on local disks.")
        self.path = Path(path)
        self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        self._connection.execute(f"PRAGMA journal_mode={journal_mode}")
        self._connection.execute("PRAGMA synchronous=FULL")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with self._transaction():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            self._connection.close()
            raise ValueError(
                f"{self.path} has ledger schema {version}. This version reads schema {SCHEMA_VERSION}. "
                "Use the evolvedirector version that wrote it, or start a new root."
            )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._connection.close()

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

    # Prompts and revisions

    def add_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Record prompts; one that is already known stays as it was."""
        self._many(
            "INSERT INTO prompts VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
            [(p.id, p.text, p.origin, p.skill, p.parent_id, p.lineage_id, p.width_px, p.height_px) for p in prompts],
        )

    def prompts(self) -> dict[str, Prompt]:
        """Return every prompt ever recorded, by id, candidates that were never bought included."""
        return {row[0]: Prompt(*row) for row in self._connection.execute("SELECT * FROM prompts ORDER BY rowid")}

    def hold_out(self, prompt_ids: Sequence[str]) -> None:
        """Record prompts that may never enter the dataset."""
        self._many("INSERT INTO held_out VALUES (?) ON CONFLICT DO NOTHING", [(prompt_id,) for prompt_id in prompt_ids])

    def held_out(self) -> set[str]:
        """Return the ids of prompts that may never enter the dataset."""
        return {row[0] for row in self._connection.execute("SELECT prompt_id FROM held_out")}

    def record_revision(self, sha: str, number: int, parent_sha: str | None, round_id: str) -> None:
        """Record that a revision was published."""
        self._many(
            "INSERT INTO revisions VALUES (?,?,?,?) ON CONFLICT DO NOTHING", [(sha, number, parent_sha, round_id)]
        )

    # Rounds

    def open_round(self, round_id: str, number: int, revision_sha: str, global_step: int) -> None:
        """Record that a round began; a repeated round keeps its first row."""
        self._many(
            "INSERT INTO rounds (round_id, number, revision_sha, global_step) VALUES (?,?,?,?) ON CONFLICT DO NOTHING",
            [(round_id, number, revision_sha, global_step)],
        )

    def close_round(self, round_id: str, child_sha: str, figures: Mapping[str, Any]) -> None:
        """Record the revision a round published and its figures."""
        self._many(
            "UPDATE rounds SET child_sha=?, figures=? WHERE round_id=?",
            [(child_sha, json.dumps(dict(figures), sort_keys=True), round_id)],
        )

    def rounds(self) -> list[dict[str, Any]]:
        """List all rounds in order, each with its figures."""
        rows = self._connection.execute(
            "SELECT round_id, number, revision_sha, global_step, child_sha, figures FROM rounds ORDER BY rowid"
        )
        names = ("round_id", "number", "revision_sha", "global_step", "child_sha")
        return [dict(zip(names, row[:5], strict=True)) | {"figures": json.loads(row[5])} for row in rows]

    # Teachers

    def reserve_calls(self, round_id: str, calls: Sequence[Call]) -> None:
        """Record requests before they are sent; one that was sent before and never answered counts as lost.

        A failure may be asked for again (an outage ends); an image or a refusal is final.
        """
        self._many(
            "INSERT INTO calls (request_id, round_id, prompt_id, lineage_id, teacher, status) "
            "VALUES (?,?,?,?,?,'submitted') ON CONFLICT (request_id) DO UPDATE SET "
            "lost = lost + (status = 'submitted'), repeats = repeats + (status = 'failure'), status = 'submitted' "
            "WHERE status IN ('submitted', 'failure')",
            [(c.request_id, round_id, c.prompt_id, c.lineage_id, c.teacher) for c in calls],
        )

    def settle_calls(self, replies: Sequence[tuple[ImageReply, str | None]]) -> None:
        """Record answers with the sha256 of their image, whose blob must be durable already."""
        self._many(
            "UPDATE calls SET status=?, image_sha256=?, reason=?, cost_usd=cost_usd+? WHERE request_id=?",
            [(r.status, sha256, r.reason, r.cost_usd, r.request_id) for r, sha256 in replies],
        )

    def replies(self, request_ids: Sequence[str]) -> dict[str, StoredReply]:
        """Return the answers already recorded among these requests."""
        columns = "request_id, prompt_id, teacher, status, image_sha256, reason, cost_usd"
        query = f"SELECT {columns} FROM calls WHERE status != 'submitted' AND request_id IN ({{}})"
        return {row[0]: StoredReply(*row) for row in self._select(query, request_ids)}

    def lineage_calls(self) -> dict[str, int]:
        """Count teacher calls by lineage."""
        query = "SELECT lineage_id, COUNT(*) + SUM(lost) + SUM(repeats) FROM calls GROUP BY lineage_id"
        return dict(self._connection.execute(query).fetchall())

    def teacher_images(self) -> list[tuple[str, str]]:
        """List (prompt id, teacher) of every image ever bought."""
        query = "SELECT prompt_id, teacher FROM calls WHERE status='image' ORDER BY rowid"
        return self._connection.execute(query).fetchall()

    def price_usd(self, teacher: str) -> float | None:
        """Return the dearest image a teacher has sold so far; None before its first answer."""
        query = "SELECT MAX(cost_usd) FROM calls WHERE teacher=? AND status != 'submitted'"
        return self._connection.execute(query, (teacher,)).fetchone()[0]

    def spend(self, round_id: str | None = None) -> Spend:
        """Sum what was spent in one round, or in all when `round_id` is None; a lost call costs its teacher's price."""
        where, key = ("WHERE round_id=?", (round_id,)) if round_id else ("", ())
        calls, lost, cost = self._connection.execute(
            "SELECT COALESCE(SUM(n), 0), COALESCE(SUM(l), 0), COALESCE(SUM(paid + l * price), 0) FROM ("
            "SELECT COUNT(*) + SUM(lost) + SUM(repeats) AS n, SUM(lost) AS l, SUM(cost_usd) AS paid, "
            f"MAX(cost_usd) AS price FROM calls {where} GROUP BY teacher)",
            key,
        ).fetchone()
        looks, lost_looks = self._connection.execute(
            f"SELECT COUNT(*) + COALESCE(SUM(lost), 0), COALESCE(SUM(lost), 0) FROM looks {where}", key
        ).fetchone()
        return Spend(calls, looks, lost + lost_looks, cost)

    # Judge

    def reserve_looks(self, round_id: str, judge: str, keys: Sequence[str]) -> None:
        """Record questions before they are asked; one asked before and never answered counts as lost."""
        self._many(
            "INSERT INTO looks (key, round_id, judge) VALUES (?,?,?) ON CONFLICT (key) DO UPDATE SET lost = lost + 1",
            [(key, round_id, judge) for key in keys],
        )

    def settle_looks(self, looks: Sequence[Look]) -> None:
        """Record readings; a look's item id is its key."""
        self._many(
            "UPDATE looks SET probability=?, covered_mass=?, reason=? WHERE key=?",
            [(look.probability, look.covered_mass, look.reason, look.item_id) for look in looks],
        )

    def looks(self, keys: Sequence[str]) -> dict[str, Look]:
        """Return the readings already recorded among these keys."""
        query = "SELECT key, probability, covered_mass, reason FROM looks WHERE probability IS NOT NULL AND key IN ({})"
        return {row[0]: Look(*row) for row in self._select(query, keys)}

    # Student images, writers, evidence and decisions

    def add_renders(self, round_id: str, images: Mapping[str, str]) -> None:
        """Record student images (request id to sha256) of a round."""
        self._many(
            "INSERT OR REPLACE INTO renders VALUES (?,?,?)", [(round_id, key, sha) for key, sha in images.items()]
        )

    def renders(self, round_id: str) -> dict[str, str]:
        """Return the student images (request id to sha256) a round has made so far."""
        query = "SELECT request_id, image_sha256 FROM renders WHERE round_id=?"
        return dict(self._connection.execute(query, (round_id,)).fetchall())

    def add_writes(self, round_id: str, replies: Sequence[WriteReply]) -> None:
        """Record what a writer wrote."""
        rows = [(r.request_id, round_id, json.dumps([r.texts, r.skills, r.refusal])) for r in replies]
        self._many("INSERT OR REPLACE INTO writes VALUES (?,?,?)", rows)

    def writes(self, request_ids: Sequence[str]) -> dict[str, WriteReply]:
        """Return what was already written among these requests."""
        found = {}
        for key, body in self._select("SELECT request_id, reply FROM writes WHERE request_id IN ({})", request_ids):
            texts, skills, refusal = json.loads(body)
            found[key] = WriteReply(key, tuple(texts), tuple(skills), refusal)
        return found

    def add_evidence(self, round_id: str, evidence: Sequence[Evidence]) -> None:
        """Record what a round learned."""
        rows = [(round_id, e.prompt_id, e.kind, e.verdict, json.dumps(asdict(e))) for e in evidence]
        self._many("INSERT OR REPLACE INTO evidence VALUES (?,?,?,?,?)", rows)

    def evidence(self, round_id: str | None = None) -> list[Evidence]:
        """List what one round learned, or all rounds when `round_id` is None."""
        where, key = ("WHERE round_id=?", (round_id,)) if round_id else ("", ())
        found = []
        for (body,) in self._connection.execute(f"SELECT body FROM evidence {where} ORDER BY rowid", key):
            fields = json.loads(body)
            fields["looks"] = tuple(Look(**look) for look in fields["looks"])
            found.append(Evidence(**fields))
        return found

    def add_decisions(self, round_id: str, decisions: Sequence[Decision]) -> None:
        """Record what was decided, with the reason."""
        rows = [(round_id, d.prompt_id, d.kind, d.count, d.reason) for d in decisions]
        self._many("INSERT OR REPLACE INTO decisions VALUES (?,?,?,?,?)", rows)

    def decisions(self, round_id: str) -> list[Decision]:
        """List what was decided in a round."""
        query = "SELECT kind, prompt_id, count, reason FROM decisions WHERE round_id=? ORDER BY rowid"
        return [Decision(*row) for row in self._connection.execute(query, (round_id,))]
