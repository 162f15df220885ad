"""Where the calls and the money went: by skill, by teacher, over the rounds."""

from __future__ import annotations

from typing import Any

from evolvedirector.secrecy.page import clean_text
from evolvedirector.store.ledger import Ledger


def spending_of(ledger: Ledger) -> dict[str, Any]:
    """Sum up the ledger: totals, and calls and cost by skill and teacher.

    Args:
        ledger: The ledger of the dataset root; runs that forked from one root share it.

    Returns:
        Totals, `by_skill` (calls and cost by skill and teacher), `refused` (calls without an image by teacher) and
        `faults` (who gave no answer that could be used, how often and why).
    """
    total = ledger.spend()
    by_skill: dict[str, dict[str, list[float]]] = {}
    refused: dict[str, int] = {}
    for skill, teacher, status, calls, cost_usd in ledger.file.stream(
        "SELECT COALESCE(p.skill, '?'), c.teacher, c.status, COUNT(*) + SUM(c.lost) + SUM(c.repeats), SUM(c.cost_usd) "
        "FROM calls c LEFT JOIN prompts p ON p.id = c.prompt_id GROUP BY 1, 2, 3 ORDER BY 1, 2"
    ):
        cell = by_skill.setdefault(skill, {}).setdefault(teacher, [0, 0.0])
        cell[0] += calls
        cell[1] = round(cell[1] + cost_usd, 6)
        if status in ("refusal", "failure"):
            refused[teacher] = refused.get(teacher, 0) + calls
    return {
        "teacher_calls": total.teacher_calls,
        "judge_calls": total.judge_calls,
        "lost_calls": total.lost_calls,
        "cost_usd": round(total.cost_usd, 6),
        "by_skill": by_skill,
        "refused": refused,
        "faults": _faults(ledger),
    }


def _faults(ledger: Ledger) -> list[dict[str, Any]]:
    """List who gave no answer that could be used, how often and why, without anything secret."""
    return [
        {"part": clean_text(fault.part), "reason": clean_text(fault.reason), "count": fault.count}
        for fault in ledger.faults.of()
    ]
