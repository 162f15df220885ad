"""What was asked of teachers: requests reserved before they are sent, answers, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace

from evolvedirector.records import FileRef, ImageReply
from evolvedirector.store.ledger.file import LedgerFile
from evolvedirector.store.ledger.rows import Call, DrawnImage, ResultKind, StoredReply, TeacherResult


class CallBook:
    """Keep the requests to teachers.

    Args:
        file: The ledger's file.
    """

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def reserve(self, round_id: str, calls: Sequence[Call], price_usd: float = 0.0) -> None:
        """Record requests before they are sent; one that was sent before and never answered counts as lost.

        A failure may be asked for again (an outage ends); an image or a refusal is final. Each try is booked to the
        round that made it.

        Args:
            round_id: Round that sends them.
            calls: The requests.
            price_usd: What one of them costs as far as it is known: an open or lost call costs that much.
        """
        found = "SELECT request_id, round_id FROM calls WHERE status IN ('submitted', 'failure') AND request_id IN ({})"
        known = [row for row in self._file.select(found, [c.request_id for c in calls]) if row[1] != round_id]
        with self._file.transaction() as connection:
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
                "INSERT INTO calls (request_id, round_id, prompt_id, lineage_id, teacher, price_usd, seed, "
                "fingerprint, status) VALUES (?,?,?,?,?,?,?,?,'submitted') ON CONFLICT (request_id) DO UPDATE SET "
                "lost = lost + (status = 'submitted'), repeats = repeats + (status = 'failure'), status = 'submitted', "
                "price_usd = MAX(price_usd, excluded.price_usd) WHERE status IN ('submitted', 'failure')",
                [
                    (c.request_id, round_id, c.prompt_id, c.lineage_id, c.teacher, price_usd, c.seed, c.fingerprint)
                    for c in calls
                ],
            )

    def settle(self, replies: Sequence[tuple[ImageReply, str | None]]) -> None:
        """Record answers with the sha256 of their image; image and files are durable already. The first one counts."""
        files = [
            (reply.request_id, role, f.sha256, f.size_bytes, f.media_type, f.width_px, f.height_px, reply.request_id)
            for reply, _ in replies
            for role, f in reply.files.items()
        ]
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT INTO call_files SELECT ?,?,?,?,?,?,? FROM calls WHERE request_id=? AND status='submitted' "
                "ON CONFLICT DO NOTHING",
                files,
            )
            connection.executemany(
                "UPDATE calls SET status=?, image_sha256=?, reason=?, cost_usd=cost_usd+?, "
                "price_usd=MAX(price_usd, ?), attempt=attempt+? WHERE request_id=? AND status='submitted'",
                [(r.status, sha256, r.reason, r.cost_usd, r.cost_usd, r.closed, r.request_id) for r, sha256 in replies],
            )

    def attempts(self, request_ids: Sequence[str]) -> dict[str, int]:
        """Return, by request id, how many tries came to nothing for good; requests without one are left out."""
        query = "SELECT request_id, attempt FROM calls WHERE attempt > 0 AND request_id IN ({})"
        return dict(self._file.select(query, request_ids))

    def withdraw(self, request_ids: Sequence[str]) -> None:
        """Take back reservations of requests that were not sent after all; earlier submissions stay counted."""
        rows = [(request_id,) for request_id in request_ids]
        again = "status='submitted' AND request_id=? AND lost + repeats > 0"
        with self._file.transaction() as connection:
            connection.executemany(
                f"UPDATE calls SET repeats = repeats - 1, status='failure' WHERE {again}",  # the row itself counts one
                rows,
            )
            connection.executemany("DELETE FROM calls WHERE status='submitted' AND request_id=?", rows)

    def replies(self, request_ids: Sequence[str]) -> dict[str, StoredReply]:
        """Return the answers already recorded among these requests."""
        files: dict[str, dict[str, FileRef]] = {}
        for key, role, *about in self._file.select("SELECT * FROM call_files WHERE request_id IN ({})", request_ids):
            files.setdefault(key, {})[role] = FileRef(*about)
        columns = "request_id, prompt_id, teacher, status, image_sha256, reason, cost_usd"
        query = f"SELECT {columns} FROM calls WHERE status != 'submitted' AND request_id IN ({{}})"
        replies = {row[0]: StoredReply(*row) for row in self._file.select(query, request_ids)}
        return {key: replace(reply, files=files[key]) if key in files else reply for key, reply in replies.items()}

    def lineages(self, request_ids: Sequence[str]) -> dict[str, str]:
        """Return the lineage that each of these requests is booked to; those never sent are left out."""
        return dict(self._file.select("SELECT request_id, lineage_id FROM calls WHERE request_id IN ({})", request_ids))

    def by_lineage(self) -> dict[str, int]:
        """Count teacher calls by lineage."""
        query = "SELECT lineage_id, COUNT(*) + SUM(lost) + SUM(repeats) FROM calls GROUP BY lineage_id"
        return dict(self._file.rows(query))

    def by_teacher(self) -> dict[str, int]:
        """Count teacher calls by teacher, lost ones and repeated failures included."""
        query = "SELECT teacher, COUNT(*) + SUM(lost) + SUM(repeats) FROM calls GROUP BY teacher"
        return dict(self._file.rows(query))

    def in_rounds(self) -> int:
        """Count the calls that rounds made; all others bought the seeds."""
        query = "SELECT COALESCE(SUM(calls), 0) FROM calls_by_rounds WHERE round_id IN (SELECT round_id FROM rounds)"
        return self._file.row(query)[0]

    def by_round(self) -> dict[str, int]:
        """Count teacher calls by the round, or the purchase of seeds, that made them."""
        return dict(self._file.rows("SELECT round_id, SUM(calls) FROM calls_by_rounds GROUP BY 1"))

    def images(self) -> list[tuple[str, str]]:
        """List (prompt id, teacher) of every image ever bought."""
        query = "SELECT prompt_id, teacher FROM calls WHERE status='image' ORDER BY rowid"
        return self._file.rows(query)

    def drawn(self, prompt_ids: Sequence[str]) -> list[DrawnImage]:
        """List the images that teachers drew of these prompts, in the order in which they were asked for."""
        query = (
            "SELECT prompt_id, image_sha256, teacher, seed, fingerprint FROM calls "
            "WHERE status='image' AND prompt_id IN ({}) ORDER BY rowid"
        )
        return [DrawnImage(*row) for row in self._file.select(query, prompt_ids)]

    def price_usd(self, teacher: str) -> float | None:
        """Return the dearest image a teacher has sold so far; None before its first one: a refusal may be free."""
        query = "SELECT MAX(price_usd) FROM calls WHERE teacher=? AND (status='image' OR cost_usd > 0)"
        return self._file.row(query, (teacher,))[0]

    def add_results(self, round_id: str, results: Sequence[TeacherResult]) -> None:
        """Record what came of asking teachers; a repeated round replaces its own rows."""
        rows = [(round_id, *astuple(result)) for result in results]
        self._file.write_many("INSERT OR REPLACE INTO teacher_results VALUES (?,?,?,?)", rows)

    def results(self, round_ids: Sequence[str]) -> list[TeacherResult]:
        """List what came of asking teachers in these rounds."""
        query = "SELECT prompt_id, teacher, result FROM teacher_results WHERE round_id IN ({}) ORDER BY rowid"
        return [TeacherResult(*row) for row in self._file.select(query, round_ids)]

    def result_counts(self, round_ids: Sequence[str]) -> list[tuple[str, str, ResultKind, int]]:
        """Count what came of asking teachers in these rounds: (skill, teacher, result, how many)."""
        query = (
            "SELECT p.skill, r.teacher, r.result, COUNT(*) FROM teacher_results r JOIN prompts p ON p.id = r.prompt_id "
            "WHERE r.round_id IN ({}) GROUP BY 1, 2, 3"
        )
        return list(self._file.select(query, round_ids))  # type: ignore[arg-type]
