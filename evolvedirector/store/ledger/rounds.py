"""Rounds as the ledger keeps them, and how their figures are written and read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from evolvedirector.records import Decision, RoundFigures
from evolvedirector.store.ledger.file import LedgerFile


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One round: which it is, what it started from, and what came of it."""

    round_id: str
    number: int
    revision_sha: str
    """The revision that it started from."""
    global_step: int
    child_sha: str | None
    """The revision that it ended with, the same one when it was skipped; None while it is open."""
    figures: RoundFigures


def figures_to_json(figures: RoundFigures) -> dict[str, Any]:
    """Spell out what a round counted; what is empty is left out."""
    values = {field.name: getattr(figures, field.name) for field in fields(RoundFigures)}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in values.items() if value}


def figures_from_json(body: Mapping[str, Any]) -> RoundFigures:
    """Read what a round counted, in this spelling or in that of before schema 7, one key for each thing counted."""
    figures = RoundFigures()
    names = {field.name for field in fields(RoundFigures)}
    for name, value in body.items():
        if name not in names:
            _read_old(figures, name, value)
        elif isinstance(own := getattr(figures, name), Counter | dict):
            own.update(value)
        else:
            setattr(figures, name, type(own)(value))
    return figures


_OLD_NUMBERS = {
    "not written: budget spent": "unwritten",
    "buy decisions beyond the allowance": "buys_beyond_allowance",
    "looks beyond the budget": "looks_beyond_budget",
    "kept: nothing else would be live": "kept_to_train",
}
_OLD_READINGS = {"student": "shows", "teacher": "lacks", "invalid": "unreadable"}
_OLD_PREFERENCES = {"invalid": "unreadable"}


def _read_old(figures: RoundFigures, name: str, value: Any) -> None:
    """Take one key of before schema 7, in which a checked image that shows its prompt was called `student`."""
    if name in _OLD_NUMBERS:
        setattr(figures, _OLD_NUMBERS[name], int(value))
        return
    if name == "skipped because":
        figures.skipped_because = str(value)
        return
    if name.startswith("judge "):
        figures.judge[name.removeprefix("judge ")] = float(value)
        return
    group, colon, word = name.partition(": ")
    counts: dict[str, tuple[Counter[Any], Mapping[str, str]]] = {
        "refused": (figures.refused, {}),
        "screen": (figures.screened, _OLD_READINGS),
        "probe": (figures.probed, _OLD_READINGS),
        "faithfulness": (figures.checked, _OLD_READINGS),
        "compare": (figures.compared, {}),
        "duel": (figures.duels, _OLD_PREFERENCES),
        "teacher": (figures.no_image, {}),
    }
    if not colon:
        figures.decisions[name] += int(value)  # type: ignore[index]
    elif group in counts:
        count, words = counts[group]
        count[words.get(word, word)] += int(value)


_ANCESTRY = (
    "WITH RECURSIVE past AS (SELECT * FROM revisions WHERE sha=? UNION ALL "
    "SELECT r.* FROM revisions r JOIN past ON r.sha = past.parent_sha) SELECT * FROM past"
)


class RoundBook:
    """Keep rounds, the revisions they ended with, the student's images and losses, and the decisions.

    Args:
        file: The ledger's file.
    """

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def record_revision(self, sha: str, number: int, parent_sha: str | None, round_id: str) -> None:
        """Record that a revision was published."""
        self._file.write_many(
            "INSERT INTO revisions VALUES (?,?,?,?) ON CONFLICT DO NOTHING", [(sha, number, parent_sha, round_id)]
        )

    def ancestry(self, revision_sha: str) -> list[tuple[str, int, str]]:
        """List (sha, number, round id) of the revisions that led to one, oldest first, without reading their files."""
        query = f"SELECT sha, number, round_id FROM ({_ANCESTRY}) ORDER BY number"
        return self._file.rows(query, (revision_sha,))  # type: ignore[return-value]

    def open(self, round_id: str, number: int, revision_sha: str, global_step: int) -> None:
        """Record that a round began; a repeated round keeps its first row."""
        self._file.write_many(
            "INSERT INTO rounds (round_id, number, revision_sha, global_step) VALUES (?,?,?,?) ON CONFLICT DO NOTHING",
            [(round_id, number, revision_sha, global_step)],
        )

    def close(self, round_id: str, child_sha: str, figures: RoundFigures) -> None:
        """Record the revision a round published and its figures."""
        self._file.write_many(
            "UPDATE rounds SET child_sha=?, figures=? WHERE round_id=?",
            [(child_sha, json.dumps(figures_to_json(figures), sort_keys=True), round_id)],
        )

    def published(self, round_id: str) -> str | None:
        """Name the revision that a finished round ended with; None for a round that is open or unknown."""
        row = self._file.row("SELECT child_sha FROM rounds WHERE round_id=?", (round_id,))
        return row[0] if row else None

    def finished(self, revision_sha: str) -> list[RoundRow]:
        """List the rounds that led to a revision, oldest first, skipped ones too; a fork sees its own past only."""
        return self._rows(f"WHERE child_sha IN (SELECT sha FROM ({_ANCESTRY})) ORDER BY rowid", revision_sha)

    def leading_to(self, revision_sha: str) -> list[str]:
        """List the rounds whose revisions led to this one, oldest first; a fork sees its own past only.

        All of them are finished, so their rows never change again.
        """
        return list(dict.fromkeys(round_id for _, _, round_id in self.ancestry(revision_sha)))

    def all(self) -> list[RoundRow]:
        """List all rounds in order, each with its figures."""
        return self._rows("ORDER BY rowid")

    def get(self, round_id: str) -> RoundRow | None:
        """Return one round; None for one that is unknown."""
        return next(iter(self._rows("WHERE round_id=?", round_id)), None)

    def _rows(self, which: str, *values: str) -> list[RoundRow]:
        columns = "round_id, number, revision_sha, global_step, child_sha, figures"
        rows = self._file.rows(f"SELECT {columns} FROM rounds {which}", values)
        return [
            RoundRow(round_id, number, start, step, child, figures_from_json(json.loads(figures)))
            for round_id, number, start, step, child, figures in rows
        ]

    def add_renders(self, round_id: str, images: Mapping[str, str]) -> None:
        """Record student images (request id to sha256) of a round."""
        self._file.write_many(
            "INSERT OR REPLACE INTO renders VALUES (?,?,?)", [(round_id, key, sha) for key, sha in images.items()]
        )

    def renders(self, round_id: str) -> dict[str, str]:
        """Return the student images (request id to sha256) a round has made so far."""
        query = "SELECT request_id, image_sha256 FROM renders WHERE round_id=?"
        return dict(self._file.rows(query, (round_id,)))

    def add_losses(self, round_id: str, losses: Mapping[str, float]) -> None:
        """Record the student's losses (by sample key) that a round measured."""
        self._file.write_many(
            "INSERT OR REPLACE INTO losses VALUES (?,?,?)", [(round_id, key, loss) for key, loss in losses.items()]
        )

    def losses(self, round_id: str) -> dict[str, float]:
        """Return the losses (by sample key) that a round has measured so far."""
        return dict(self._file.rows("SELECT sample_key, loss FROM losses WHERE round_id=?", (round_id,)))

    def recent_losses(self, revision_sha: str, rounds: int) -> list[dict[str, float]]:
        """List the losses (by sample key) of the last rounds that led to a revision and measured any, oldest first."""
        query = (
            "SELECT round_id FROM rounds WHERE round_id IN (SELECT round_id FROM losses) "
            f"AND child_sha IN (SELECT sha FROM ({_ANCESTRY})) ORDER BY rowid DESC LIMIT ?"
        )
        return [self.losses(row[0]) for row in reversed(self._file.rows(query, (revision_sha, rounds)))]

    def add_decisions(self, round_id: str, decisions: Sequence[Decision]) -> None:
        """Record what was decided, with the reason."""
        rows = [(round_id, d.prompt_id, d.kind, d.count, d.reason, d.image_sha256, d.variant) for d in decisions]
        columns = "round_id, prompt_id, kind, count, reason, image_sha256, variant"
        self._file.write_many(f"INSERT OR REPLACE INTO decisions ({columns}) VALUES (?,?,?,?,?,?,?)", rows)

    def decisions(self, round_id: str) -> list[Decision]:
        """List what was decided in a round."""
        columns = "kind, prompt_id, count, reason, image_sha256, variant"
        query = f"SELECT {columns} FROM decisions WHERE round_id=? ORDER BY rowid"
        return [Decision(*row) for row in self._file.rows(query, (round_id,))]
