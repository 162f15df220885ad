"""The SQLite record of everything written, bought, judged and decided; only the driver (rank 0) opens it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple

from evolvedirector.records import Decision, Evidence, ImageReply, Look, Prompt, RoundFigures, WriteReply
from evolvedirector.store.ledger.file import LedgerFile
from evolvedirector.store.ledger.rounds import RoundRow, figures_from_json, figures_to_json
from evolvedirector.store.ledger.rows import Call, Duel, Spend, StoredReply, TeacherResult

__all__ = ["Call", "Duel", "Ledger", "Spend", "StoredReply", "TeacherResult"]

_EVIDENCE_COLUMNS = ("prompt_id", "kind", "reading", "verdict")
"""In this order the first fields of `Evidence`; the others are spelled out in `body`."""


class Ledger(LedgerFile):
    """Keep the books of one dataset root.

    Every public method is one transaction: after it returns, a kill loses nothing of it. Asking twice gives the row
    that is already there, so that a repeated round costs nothing.

    Args:
        path: The SQLite file; made when missing.

    Raises:
        ValueError: The file was written by another schema version.
    """

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

    def finished_rounds(self, revision_sha: str) -> list[RoundRow]:
        """List the rounds that led to a revision, oldest first, skipped ones too; a fork sees its own past only."""
        query = (
            "WITH RECURSIVE past AS (SELECT sha, parent_sha FROM revisions WHERE sha=? UNION "
            "SELECT r.sha, r.parent_sha FROM revisions r JOIN past ON r.sha = past.parent_sha) SELECT sha FROM past"
        )
        ancestors = {row[0] for row in self._connection.execute(query, (revision_sha,))}
        return [row for row in self.rounds() if row.child_sha in ancestors]

    def rounds_to(self, revision_sha: str) -> list[str]:
        """List the rounds whose revisions led to this one, oldest first; a fork sees its own past only.

        All of them are finished, so their rows never change again.
        """
        query = (
            "WITH RECURSIVE past AS (SELECT * FROM revisions WHERE sha=? UNION ALL "
            "SELECT r.* FROM revisions r JOIN past ON r.sha = past.parent_sha) "
            "SELECT round_id FROM past ORDER BY number"
        )
        return list(dict.fromkeys(row[0] for row in self._connection.execute(query, (revision_sha,))))

    # Rounds

    def open_round(self, round_id: str, number: int, revision_sha: str, global_step: int) -> None:
        """Record that a round began; a repeated round keeps its first row."""
        self._many(
            "INSERT INTO rounds (round_id, number, revision_sha, global_step) VALUES (?,?,?,?) ON CONFLICT DO NOTHING",
            [(round_id, number, revision_sha, global_step)],
        )

    def close_round(self, round_id: str, child_sha: str, figures: RoundFigures) -> None:
        """Record the revision a round published and its figures."""
        self._many(
            "UPDATE rounds SET child_sha=?, figures=? WHERE round_id=?",
            [(child_sha, json.dumps(figures_to_json(figures), sort_keys=True), round_id)],
        )

    def published(self, round_id: str) -> str | None:
        """Name the revision that a finished round ended with; None for a round that is open or unknown."""
        row = self._connection.execute("SELECT child_sha FROM rounds WHERE round_id=?", (round_id,)).fetchone()
        return row[0] if row else None

    def rounds(self) -> list[RoundRow]:
        """List all rounds in order, each with its figures."""
        columns = "round_id, number, revision_sha, global_step, child_sha, figures"
        rows = self._connection.execute(f"SELECT {columns} FROM rounds ORDER BY rowid")
        return [RoundRow(*row, figures_from_json(json.loads(figures))) for *row, figures in rows]  # type: ignore[call-arg]

    # Teachers

    def reserve_calls(self, round_id: str, calls: Sequence[Call], price_usd: float = 0.0) -> None:
        """Record requests before they are sent; one that was sent before and never answered counts as lost.

        A failure may be asked for again (an outage ends); an image or a refusal is final. Each try is booked to the
        round that made it.

        Args:
            round_id: Round that sends them.
            calls: The requests.
            price_usd: What one of them costs as far as it is known: an open or lost call costs that much.
        """
        found = "SELECT request_id, round_id FROM calls WHERE status IN ('submitted', 'failure') AND request_id IN ({})"
        known = [row for row in self._select(found, [c.request_id for c in calls]) if row[1] != round_id]
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO earlier_calls SELECT request_id, round_id, 1 + lost + repeats - e.calls, "
                "lost + (status = 'submitted') - e.lost_before, cost_usd - e.paid FROM calls, "
                "(SELECT TOTAL(calls) AS calls, TOTAL(lost) AS lost_before, TOTAL(cost_usd) AS paid FROM earlier_calls "
                "WHERE request_id=?1) e WHERE request_id=?1 ON CONFLICT (request_id, round_id) DO UPDATE SET "
                "calls = calls + excluded.calls, lost = lost + excluded.lost, cost_usd = cost_usd + excluded.cost_usd",
                [(request_id,) for request_id, _ in known],
            )
            connection.executemany(
                "UPDATE calls SET round_id=? WHERE request_id=?", [(round_id, request_id) for request_id, _ in known]
            )
            connection.executemany(
                "INSERT INTO calls (request_id, round_id, prompt_id, lineage_id, teacher, price_usd, status) "
                "VALUES (?,?,?,?,?,?,'submitted') ON CONFLICT (request_id) DO UPDATE SET "
                "lost = lost + (status = 'submitted'), repeats = repeats + (status = 'failure'), status = 'submitted', "
                "price_usd = MAX(price_usd, excluded.price_usd) WHERE status IN ('submitted', 'failure')",
                [(c.request_id, round_id, c.prompt_id, c.lineage_id, c.teacher, price_usd) for c in calls],
            )

    def settle_calls(self, replies: Sequence[tuple[ImageReply, str | None]]) -> None:
        """Record answers with the sha256 of their image, whose blob must be durable already; the first one counts."""
        self._many(
            "UPDATE calls SET status=?, image_sha256=?, reason=?, cost_usd=cost_usd+?, price_usd=MAX(price_usd, ?), "
            "attempt=attempt+? WHERE request_id=? AND status='submitted'",
            [(r.status, sha256, r.reason, r.cost_usd, r.cost_usd, r.closed, r.request_id) for r, sha256 in replies],
        )

    def attempts(self, request_ids: Sequence[str]) -> dict[str, int]:
        """Return, by request id, how many tries came to nothing for good; requests without one are left out."""
        query = "SELECT request_id, attempt FROM calls WHERE attempt > 0 AND request_id IN ({})"
        return dict(self._select(query, request_ids))

    def withdraw_calls(self, request_ids: Sequence[str]) -> None:
        """Take back reservations of requests that were not sent after all; earlier submissions stay counted."""
        rows = [(request_id,) for request_id in request_ids]
        again = "status='submitted' AND request_id=? AND lost + repeats > 0"
        with self._transaction() as connection:
            connection.executemany(
                f"UPDATE calls SET repeats = repeats - 1, status='failure' WHERE {again}",  # the row itself counts one
                rows,
            )
            connection.executemany("DELETE FROM calls WHERE status='submitted' AND request_id=?", rows)

    def replies(self, request_ids: Sequence[str]) -> dict[str, StoredReply]:
        """Return the answers already recorded among these requests."""
        columns = "request_id, prompt_id, teacher, status, image_sha256, reason, cost_usd"
        query = f"SELECT {columns} FROM calls WHERE status != 'submitted' AND request_id IN ({{}})"
        return {row[0]: StoredReply(*row) for row in self._select(query, request_ids)}

    def lineage_calls(self) -> dict[str, int]:
        """Count teacher calls by lineage."""
        query = "SELECT lineage_id, COUNT(*) + SUM(lost) + SUM(repeats) FROM calls GROUP BY lineage_id"
        return dict(self._connection.execute(query).fetchall())

    def teacher_calls_by_teacher(self) -> dict[str, int]:
        """Count teacher calls by teacher, lost ones and repeated failures included."""
        query = "SELECT teacher, COUNT(*) + SUM(lost) + SUM(repeats) FROM calls GROUP BY teacher"
        return dict(self._connection.execute(query).fetchall())

    def teacher_images(self) -> list[tuple[str, str]]:
        """List (prompt id, teacher) of every image ever bought."""
        query = "SELECT prompt_id, teacher FROM calls WHERE status='image' ORDER BY rowid"
        return self._connection.execute(query).fetchall()

    def price_usd(self, teacher: str) -> float | None:
        """Return the dearest image a teacher has sold so far; None before its first one: a refusal may be free."""
        query = "SELECT MAX(price_usd) FROM calls WHERE teacher=? AND (status='image' OR cost_usd > 0)"
        return self._connection.execute(query, (teacher,)).fetchone()[0]

    def spend(self, round_id: str | None = None) -> Spend:
        """Sum what was spent in one round, or in all when `round_id` is None.

        A call without an answer, lost or still open, costs its teacher's price: it may have been billed.
        """
        key: tuple[str, ...] = (round_id,) if round_id else ()
        of_calls, of_looks = "calls_by_rounds WHERE round_id=?", "looks_by_rounds WHERE round_id=?"
        if not round_id:  # the rows count all their tries: no need to book them
            of_calls = "(SELECT *, 1 + lost + repeats AS calls, lost + (status = 'submitted') AS silent FROM calls)"
            of_looks = "(SELECT *, 1 + lost AS looks FROM looks)"
        calls, lost, cost = self._connection.execute(
            "SELECT COALESCE(SUM(n), 0), COALESCE(SUM(l), 0), COALESCE(SUM(paid + silent * price), 0) FROM ("
            "SELECT SUM(calls) AS n, SUM(lost) AS l, SUM(cost_usd) AS paid, SUM(silent) AS silent, "
            f"MAX(price_usd) AS price FROM {of_calls} GROUP BY teacher)",
            key,
        ).fetchone()
        looks, lost_looks, judged = self._connection.execute(
            f"SELECT COALESCE(SUM(looks), 0), COALESCE(SUM(lost), 0), COALESCE(SUM(cost_usd), 0) FROM {of_looks}", key
        ).fetchone()
        return Spend(calls, looks, lost + lost_looks, cost + judged)

    def add_teacher_results(self, round_id: str, results: Sequence[TeacherResult]) -> None:
        """Record what came of asking teachers; a repeated round replaces its own rows."""
        rows = [(round_id, *astuple(result)) for result in results]
        self._many("INSERT OR REPLACE INTO teacher_results VALUES (?,?,?,?)", rows)

    def teacher_results(self, round_ids: Sequence[str]) -> list[TeacherResult]:
        """List what came of asking teachers in these rounds."""
        query = "SELECT prompt_id, teacher, result FROM teacher_results WHERE round_id IN ({}) ORDER BY rowid"
        return [TeacherResult(*row) for row in self._select(query, round_ids)]

    def add_duels(self, round_id: str, duels: Sequence[Duel]) -> None:
        """Record comparisons of two teachers; a repeated round replaces its own rows."""
        rows = [(round_id, *astuple(duel)) for duel in duels]
        self._many("INSERT OR REPLACE INTO duels VALUES (?,?,?,?,?,?,?)", rows)

    def duels(self, round_ids: Sequence[str] | None = None) -> list[Duel]:
        """List the comparisons of two teachers in these rounds, or in all when `round_ids` is None."""
        columns = "prompt_id, first_teacher, second_teacher, first_sha256, second_sha256, preference"
        if round_ids is None:
            return [Duel(*row) for row in self._connection.execute(f"SELECT {columns} FROM duels ORDER BY rowid")]
        query = f"SELECT {columns} FROM duels WHERE round_id IN ({{}}) ORDER BY rowid"
        return [Duel(*row) for row in self._select(query, round_ids)]

    # Judge

    def reserve_looks(self, round_id: str, judge: str, keys: Sequence[str], price_usd: float = 0.0) -> None:
        """Record questions before they are asked; one asked before and never answered counts as lost, and as paid.

        Each try is booked to the round that made it.
        """
        found = "SELECT key, round_id FROM looks WHERE probability IS NULL AND key IN ({})"
        known = [row for row in self._select(found, keys) if row[1] != round_id]
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO earlier_looks SELECT key, round_id, 1 + lost - e.looks, cost_usd - e.paid FROM looks, "
                "(SELECT TOTAL(looks) AS looks, TOTAL(cost_usd) AS paid FROM earlier_looks WHERE key=?1) e "
                "WHERE key=?1 ON CONFLICT (key, round_id) DO UPDATE SET "
                "looks = looks + excluded.looks, cost_usd = cost_usd + excluded.cost_usd",
                [(key,) for key, _ in known],
            )
            connection.executemany("UPDATE looks SET round_id=? WHERE key=?", [(round_id, key) for key, _ in known])
            connection.executemany(
                "INSERT INTO looks (key, round_id, judge, cost_usd) VALUES (?,?,?,?) "
                "ON CONFLICT (key) DO UPDATE SET lost = lost + 1, cost_usd = cost_usd + excluded.cost_usd",
                [(key, round_id, judge, price_usd) for key in keys],
            )

    def settle_looks(self, looks: Sequence[Look]) -> None:
        """Record readings; a look's item id is its key."""
        self._many(
            "UPDATE looks SET probability=?, covered_mass=?, reason=?, rung=? WHERE key=?",
            [(look.probability, look.covered_mass, look.reason, look.rung, look.item_id) for look in looks],
        )

    def withdraw_looks(self, keys: Sequence[str], price_usd: float) -> None:
        """Take back questions that were not sent after all, so that they are asked again; lost ones stay counted.

        Args:
            keys: Of the questions.
            price_usd: What was reserved for each.
        """
        rows = [(price_usd, key) for key in keys]
        with self._transaction() as connection:
            gone = "DELETE FROM looks WHERE key=? AND probability IS NULL AND lost = 0"
            connection.executemany(gone, [(key,) for key in keys])
            connection.executemany(  # after it: what is left counts the tries before this one
                "UPDATE looks SET lost = lost - 1, cost_usd = MAX(0, cost_usd - ?) "
                "WHERE key=? AND probability IS NULL AND lost > 0",
                rows,
            )

    def looks(self, keys: Sequence[str]) -> dict[str, Look]:
        """Return the readings already recorded among these keys."""
        columns = "key, probability, covered_mass, reason, rung"
        query = f"SELECT {columns} FROM looks WHERE probability IS NOT NULL AND key IN ({{}})"
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
        rows = []
        for item in evidence:  # several teachers' images of one prompt are checked, its student image once
            image = (item.teacher_sha256 or "") if item.kind == "faithfulness" else ""
            body = {name: value for name, value in asdict(item).items() if name not in _EVIDENCE_COLUMNS}
            rows.append((round_id, item.prompt_id, item.kind, image, item.reading, item.verdict, json.dumps(body)))
        self._many("INSERT OR REPLACE INTO evidence VALUES (?,?,?,?,?,?,?)", rows)

    def evidence(self, round_id: str | None = None) -> list[Evidence]:
        """List what one round learned, or all rounds when `round_id` is None."""
        where, key = ("WHERE round_id=?", (round_id,)) if round_id else ("", ())
        found = []
        columns = ", ".join((*_EVIDENCE_COLUMNS, "body"))
        for *row, body in self._connection.execute(f"SELECT {columns} FROM evidence {where} ORDER BY rowid", key):
            fields = {name: value for name, value in json.loads(body).items() if name not in _EVIDENCE_COLUMNS}
            fields["looks"] = tuple(Look(**look) for look in fields["looks"])
            found.append(Evidence(*row, **fields))
        return found

    def add_decisions(self, round_id: str, decisions: Sequence[Decision]) -> None:
        """Record what was decided, with the reason."""
        rows = [(round_id, d.prompt_id, d.kind, d.count, d.reason) for d in decisions]
        self._many("INSERT OR REPLACE INTO decisions VALUES (?,?,?,?,?)", rows)

    def decisions(self, round_id: str) -> list[Decision]:
        """List what was decided in a round."""
        query = "SELECT kind, prompt_id, count, reason FROM decisions WHERE round_id=? ORDER BY rowid"
        return [Decision(*row) for row in self._connection.execute(query, (round_id,))]
