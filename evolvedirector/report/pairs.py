"""Student beside teacher: what the judge was shown, what it answered, and what follows from it."""

from __future__ import annotations

import json
from typing import Any

from evolvedirector.report.ledger_view import LedgerView
from evolvedirector.report.rounds import looks_of
from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.secrecy.page import clean_text
from evolvedirector.store.blobs import Blobs

MAX_PAIRS = 500
MAX_TEXT = 400
"""Characters of a prompt in the page; of a longer one the page says how long it is."""


def pairs_of(view: LedgerView, blobs: Blobs, thumbnails: Thumbnails, most: int = MAX_PAIRS) -> dict[str, Any]:
    """Choose comparisons, spread evenly over the run; where none was made, the student's screened images.

    Args:
        view: The ledger.
        blobs: The images.
        thumbnails: Takes their small copies.
        most: Pairs at most.

    Returns:
        `pairs` with round, prompt, skill, outcome (a verdict, or a reading), looks and pictures; `total`, how many
        there are; and their `kind`.
    """
    kind = "compare"
    rows, total = view.evenly("round_id, prompt_id, verdict, body", "evidence", "kind='compare'", most)
    if not rows:
        kind = "screen"
        rows, total = view.evenly("round_id, prompt_id, reading, body", "evidence", "kind='screen'", most)
    prompts = _prompts(view, [row[1] for row in rows])
    sold_by = _teachers(view, [row[1] for row in rows])
    numbers = {row.round_id: row.number + 1 for row in view.rounds()}
    pairs = []
    for round_id, prompt_id, outcome, body in reversed(rows):  # the newest first: they show the student as it is
        fields = json.loads(body)
        text, skill, origin = prompts.get(prompt_id, (prompt_id, "?", "?"))
        teacher_sha = fields.get("teacher_sha256")
        pairs.append(
            {
                "round": numbers.get(round_id),
                "text": clipped(text),
                "skill": skill,
                "origin": origin,
                "outcome": outcome,
                "looks": looks_of(body),
                "student": _picture(thumbnails, blobs, fields.get("student_sha256")),
                "teacher": _picture(thumbnails, blobs, teacher_sha),
                "by": sold_by.get((prompt_id, teacher_sha), ""),
            }
        )
    return {"pairs": pairs, "total": total, "kind": kind}


def clipped(text: str, most: int = MAX_TEXT) -> str:
    """Return a prompt for the page: without secrets, and cut with a note when it is long."""
    text = clean_text(text)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def _prompts(view: LedgerView, ids: list[str]) -> dict[str, tuple[str, str, str]]:
    query = "SELECT id, text, skill, origin FROM prompts WHERE id IN ({})"
    return {row[0]: (row[1], row[2], row[3]) for row in view.rows_of(query, list(dict.fromkeys(ids)))}


def _teachers(view: LedgerView, prompt_ids: list[str]) -> dict[tuple[str, str], str]:
    query = "SELECT prompt_id, image_sha256, teacher FROM calls WHERE status='image' AND prompt_id IN ({})"
    return {(row[0], row[1]): row[2] for row in view.rows_of(query, list(dict.fromkeys(prompt_ids)))}


def _picture(thumbnails: Thumbnails, blobs: Blobs, sha256: str | None) -> str | None:
    return thumbnails.add(sha256, lambda: blobs.get(sha256)) if sha256 else None
