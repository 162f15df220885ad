"""What was written: prompts, those that may never enter, and the replies of the writer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from evolvedirector.records import Prompt, WriteReply
from evolvedirector.store.ledger.file import LedgerFile


class PromptBook:
    """Keep prompts and what writers wrote.

    Args:
        file: The ledger's file.
    """

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def add(self, prompts: Iterable[Prompt]) -> None:
        """Record prompts; one that is already known stays as it was."""
        self._file.write_many(
            "INSERT INTO prompts VALUES (?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
            [(p.id, p.text, p.origin, p.skill, p.parent_id, p.lineage_id, p.width_px, p.height_px) for p in prompts],
        )

    def get(self, prompt_ids: Sequence[str]) -> dict[str, Prompt]:
        """Return those of these prompts that were ever recorded, by id."""
        query = "SELECT * FROM prompts WHERE id IN ({})"
        return {row[0]: Prompt(*row) for row in self._file.select(query, prompt_ids)}

    def all(self) -> dict[str, Prompt]:
        """Return every prompt ever recorded, candidates that were never bought included; for tools, not for rounds."""
        return {row[0]: Prompt(*row) for row in self._file.rows("SELECT * FROM prompts ORDER BY rowid")}

    def hold_out(self, prompt_ids: Iterable[str]) -> None:
        """Record prompts that may never enter the dataset."""
        rows = [(prompt_id,) for prompt_id in prompt_ids]
        self._file.write_many("INSERT INTO held_out VALUES (?) ON CONFLICT DO NOTHING", rows)

    def held_out(self) -> set[str]:
        """Return the ids of prompts that may never enter the dataset."""
        return {row[0] for row in self._file.rows("SELECT prompt_id FROM held_out")}

    def add_writes(self, round_id: str, replies: Iterable[WriteReply]) -> None:
        """Record what a writer wrote."""
        rows = [(r.request_id, round_id, json.dumps([r.texts, r.skills, r.refusal])) for r in replies]
        self._file.write_many("INSERT OR REPLACE INTO writes VALUES (?,?,?)", rows)

    def writes(self, request_ids: Sequence[str]) -> dict[str, WriteReply]:
        """Return what was already written among these requests."""
        found = {}
        query = "SELECT request_id, reply FROM writes WHERE request_id IN ({})"
        for key, body in self._file.select(query, request_ids):
            texts, skills, refusal = json.loads(body)
            found[key] = WriteReply(key, tuple(texts), tuple(skills), refusal)
        return found

    def write_calls(self, round_id: str) -> int:
        """Count the replies of the writer that a round asked for; what another round asked first is its own."""
        return self._file.row("SELECT COUNT(*) FROM writes WHERE round_id=?", (round_id,))[0]
