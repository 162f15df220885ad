"""Student beside teacher: what the judge was shown, what it answered, and what follows from it."""

from __future__ import annotations

import json
from typing import Any

from evolvedirector.report.rounds import looks_of
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.secrecy.page import clean_text
from evolvedirector.store.blobs import Blobs
from evolvedirector.store.ledger import Ledger
from evolvedirector.store.ledger.file import LedgerFile, Row

MAX_PAIRS = 500
MAX_TEXT = 400
"""Characters of a prompt in the page; of a longer one the page says how long it is."""


def pairs_of(ledger: Ledger, blobs: Blobs, thumbnails: Thumbnails, most: int = MAX_PAIRS) -> dict[str, Any]:
    """Choose comparisons, spread evenly over the run; where none was made, the student's screened images.

    Args:
        ledger: The ledger.
        blobs: The images.
        thumbnails: Takes their small copies.
        most: Pairs at most.

    Returns:
        `pairs` with round, prompt, skill, `verdict` or `reading`, looks and pictures; `total`, how many
        there are; and their `kind`: `compare`, `screen`, or `subject` where the student drew a given subject, whose
        reference then stands in the teacher's place.
    """
    kind = "compare"
    rows, total = evenly(ledger.file, "round_id, prompt_id, verdict, body", "evidence", "kind='compare'", most)
    if not rows:
        kind = "screen"
        rows, total = evenly(ledger.file, "round_id, prompt_id, reading, body", "evidence", "kind='screen'", most)
    prompts = _prompts(ledger, [row[1] for row in rows])
    sold_by = _teachers(ledger, [row[1] for row in rows])
    numbers = {row.round_id: row.number + 1 for row in ledger.rounds.all()}
    pairs = []
    for round_id, prompt_id, outcome, body in reversed(rows):  # the newest first: they show the student as it is
        fields = json.loads(body)
        text, skill, origin = prompts.get(prompt_id, (prompt_id, "?", "?"))
        teacher_sha = fields.get("teacher_sha256")
        if kind == "screen" and teacher_sha is not None:
            kind = "subject"
        pairs.append(
            {
                "round": numbers.get(round_id),
                "text": clipped(text),
                "skill": skill,
                "origin": origin,
                "verdict" if kind == "compare" else "reading": outcome,
                "looks": looks_of(body),
                "student": _picture(thumbnails, blobs, fields.get("student_sha256")),
                "teacher": _picture(thumbnails, blobs, teacher_sha),
                "by": "reference" if kind == "subject" else sold_by.get((prompt_id, teacher_sha), ""),
            }
        )
    return {"pairs": pairs, "total": total, "kind": kind}


def evenly(file: LedgerFile, columns: str, table: str, where: str, most: int) -> tuple[list[Row], int]:
    """Return at most so many rows, spread evenly over the order in which they were written, and how many there are.

    The same ledger gives the same rows: nothing is drawn at random.

    Args:
        file: The ledger's.
        columns: What to select.
        table: From where.
        where: A condition.
        most: Rows at most.
    """
    total = file.row(f"SELECT COUNT(*) FROM {table} WHERE {where}")[0]
    if total == 0:
        return [], 0
    query = (
        f"SELECT {columns} FROM (SELECT *, ROW_NUMBER() OVER (ORDER BY rowid) - 1 AS place FROM {table} "
        f"WHERE {where}) WHERE (place + 1) * ?1 / ?2 > place * ?1 / ?2"
    )
    return file.rows(query, (min(most, total), total)), total


def clipped(text: str, most: int = MAX_TEXT) -> str:
    """Return a prompt for the page: without secrets, and cut with a note when it is long."""
    text = clean_text(text)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def _prompts(ledger: Ledger, ids: list[str]) -> dict[str, tuple[str, str, str]]:
    query = "SELECT id, text, skill, origin FROM prompts WHERE id IN ({})"
    return {row[0]: (row[1], row[2], row[3]) for row in ledger.file.select(query, list(dict.fromkeys(ids)))}


def _teachers(ledger: Ledger, prompt_ids: list[str]) -> dict[tuple[str, str], str]:
    query = "SELECT prompt_id, image_sha256, teacher FROM calls WHERE status='image' AND prompt_id IN ({})"
    return {(row[0], row[1]): row[2] for row in ledger.file.select(query, list(dict.fromkeys(prompt_ids)))}


def _picture(thumbnails: Thumbnails, blobs: Blobs, sha256: str | None) -> str | None:
    return thumbnails.add(sha256, lambda: blobs.get(sha256)) if sha256 else None
