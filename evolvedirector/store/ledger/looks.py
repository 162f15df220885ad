"""What was seen: looks of the judge and scores of rewards, and what follows from them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, astuple

from evolvedirector.records import Evidence, Look, Origin, Preference, Score
from evolvedirector.store.ledger.file import LedgerFile
from evolvedirector.store.ledger.rows import Duel

_COLUMNS = ("prompt_id", "kind", "reading", "verdict", "skill", "lineage_id")
"""Fields of `Evidence` that are columns; the others are spelled out in `body`."""


class LookBook:
    """Keep looks, scores, duels and evidence.

    Args:
        file: The ledger's file.
    """

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def reserve(self, round_id: str, judge: str, keys: Sequence[str], price_usd: float = 0.0) -> None:
        """Record questions before they are asked; one asked before and never answered counts as lost, and as paid.

        Each try is booked to the round that made it.
        """
        found = "SELECT key, round_id FROM looks WHERE probability IS NULL AND key IN ({})"
        known = [row for row in self._file.select(found, keys) if row[1] != round_id]
        with self._file.transaction() as connection:
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

    def settle(self, looks: Sequence[Look]) -> None:
        """Record readings; a look's item id is its key."""
        self._file.write_many(
            "UPDATE looks SET probability=?, covered_mass=?, reason=?, rung=? WHERE key=?",
            [(look.probability, look.covered_mass, look.reason, look.rung, look.item_id) for look in looks],
        )

    def withdraw(self, keys: Sequence[str], price_usd: float) -> None:
        """Take back questions that were not sent after all, so that they are asked again; lost ones stay counted.

        Args:
            keys: Of the questions.
            price_usd: What was reserved for each.
        """
        rows = [(price_usd, key) for key in keys]
        with self._file.transaction() as connection:
            gone = "DELETE FROM looks WHERE key=? AND probability IS NULL AND lost = 0"
            connection.executemany(gone, [(key,) for key in keys])
            connection.executemany(  # after it: what is left counts the tries before this one
                "UPDATE looks SET lost = lost - 1, cost_usd = MAX(0, cost_usd - ?) "
                "WHERE key=? AND probability IS NULL AND lost > 0",
                rows,
            )

    def get(self, keys: Sequence[str]) -> dict[str, Look]:
        """Return the readings already recorded among these keys."""
        columns = "key, probability, covered_mass, reason, rung"
        query = f"SELECT {columns} FROM looks WHERE probability IS NOT NULL AND key IN ({{}})"
        return {row[0]: Look(*row) for row in self._file.select(query, keys)}

    def rounds_of(self, keys: Sequence[str]) -> dict[str, str]:
        """Name, by key, the round that asked last; questions that were never asked are left out."""
        return dict(self._file.select("SELECT key, round_id FROM looks WHERE key IN ({})", keys))

    def add_scores(self, round_id: str, reward: str, scores: Sequence[Score]) -> None:
        """Record what a reward found; a score's item id is its key.

        Args:
            round_id: Round that asked.
            reward: Fingerprint of the reward.
            scores: One nan is kept as such: it is an answer too.
        """
        rows = [(s.item_id, round_id, reward, None if math.isnan(s.value) else s.value, s.reason) for s in scores]
        self._file.write_many("INSERT INTO scores VALUES (?,?,?,?,?) ON CONFLICT DO NOTHING", rows)

    def scores(self, keys: Sequence[str]) -> dict[str, Score]:
        """Return the scores already recorded among these keys."""
        rows = self._file.select("SELECT key, value, reason FROM scores WHERE key IN ({})", keys)
        return {key: Score(key, math.nan if value is None else value, reason) for key, value, reason in rows}

    def add_evidence(self, round_id: str, evidence: Sequence[Evidence]) -> None:
        """Record what a round learned."""
        rows = []
        for item in evidence:  # several images of one prompt are checked or scored, its student image is screened once
            several = item.kind in ("faithfulness", "score")
            image = (item.teacher_sha256 or item.student_sha256 or "") if several else ""
            body = {name: value for name, value in asdict(item).items() if name not in _COLUMNS}
            outcome = (item.reading, item.verdict, item.skill, item.lineage_id)
            rows.append((round_id, item.prompt_id, item.kind, image, *outcome, json.dumps(body)))
        self._file.write_many("INSERT OR REPLACE INTO evidence VALUES (?,?,?,?,?,?,?,?,?)", rows)

    def evidence(self, round_id: str | None = None) -> list[Evidence]:
        """List what one round learned, or all rounds when `round_id` is None."""
        where, key = ("WHERE round_id=?", (round_id,)) if round_id else ("", ())
        found = []
        query = f"SELECT {', '.join(_COLUMNS)}, body FROM evidence {where} ORDER BY rowid"
        for *columns, body in self._file.stream(query, key):
            fields = json.loads(body) | dict(zip(_COLUMNS, columns, strict=True))
            fields["looks"] = tuple(Look(**look) for look in fields["looks"])
            fields["further_sha256"] = tuple(fields.get("further_sha256", ()))
            found.append(Evidence(**fields))
        return found

    def screened(self, round_ids: Sequence[str]) -> list[tuple[str, str, str, int, int]]:
        """Sum up what rounds saw of prompts never trained on: (round id, skill, lineage, readable looks, failed).

        A prompt has the skill and the lineage that it had when it was looked at.
        """
        query = (
            "SELECT e.round_id, COALESCE(e.skill, p.skill), COALESCE(e.lineage_id, p.lineage_id), COUNT(*), "
            "SUM(e.reading = 'lacks') FROM evidence e JOIN prompts p ON p.id = e.prompt_id "
            "WHERE e.kind = 'screen' AND e.reading != 'unreadable' AND e.round_id IN ({}) GROUP BY 1, 2, 3"
        )
        return list(self._file.select(query, round_ids))  # type: ignore[arg-type]

    def screened_by_operation(self, round_ids: Sequence[str]) -> list[tuple[str, str, Origin, int, int]]:
        """Sum up the same by the operation that wrote the prompt: (round id, skill, operation, looks, failed)."""
        query = (
            "SELECT e.round_id, COALESCE(e.skill, p.skill), p.origin, COUNT(*), SUM(e.reading = 'lacks') "
            "FROM evidence e JOIN prompts p ON p.id = e.prompt_id "
            "WHERE e.kind = 'screen' AND e.reading != 'unreadable' AND e.round_id IN ({}) GROUP BY 1, 2, 3"
        )
        return list(self._file.select(query, round_ids))  # type: ignore[arg-type]

    def failed(self, round_ids: Sequence[str]) -> dict[str, set[str]]:
        """Return, by round, the ids of screened prompts that the student failed."""
        query = (
            "SELECT e.round_id, e.prompt_id FROM evidence e JOIN prompts p ON p.id = e.prompt_id "
            "WHERE e.kind = 'screen' AND e.reading = 'lacks' AND e.round_id IN ({})"
        )
        found: dict[str, set[str]] = {}
        for round_id, prompt_id in self._file.select(query, round_ids):
            found.setdefault(round_id, set()).add(prompt_id)
        return found

    def add_duels(self, round_id: str, duels: Sequence[Duel]) -> None:
        """Record comparisons of two teachers; a repeated round replaces its own rows."""
        rows = [(round_id, *astuple(duel)) for duel in duels]
        self._file.write_many("INSERT OR REPLACE INTO duels VALUES (?,?,?,?,?,?,?)", rows)

    def duels(self, round_ids: Sequence[str] | None = None) -> list[Duel]:
        """List the comparisons of two teachers in these rounds, or in all when `round_ids` is None."""
        columns = "prompt_id, first_teacher, second_teacher, first_sha256, second_sha256, preference"
        if round_ids is None:
            return [Duel(*row) for row in self._file.rows(f"SELECT {columns} FROM duels ORDER BY rowid")]
        query = f"SELECT {columns} FROM duels WHERE round_id IN ({{}}) ORDER BY rowid"
        return [Duel(*row) for row in self._file.select(query, round_ids)]

    def duel_counts(self, round_ids: Sequence[str]) -> list[tuple[str, str, str, Preference, int]]:
        """Count the duels of these rounds: (skill, first teacher, second teacher, preference, how many)."""
        query = (
            "SELECT p.skill, d.first_teacher, d.second_teacher, d.preference, COUNT(*) FROM duels d "
            "JOIN prompts p ON p.id = d.prompt_id WHERE d.round_id IN ({}) GROUP BY 1, 2, 3, 4"
        )
        return list(self._file.select(query, round_ids))  # type: ignore[arg-type]
