"""The story of each round, from the ledger: what was written, screened, bought, judged and decided."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any

from evolvedirector.records import RoundFigures
from evolvedirector.report.history import History
from evolvedirector.report.judges import corrected_shares, judge_sentence
from evolvedirector.secrecy.page import clean_text
from evolvedirector.store.ledger import Ledger, RoundRow

MAX_ROUNDS = 400
"""Rounds told in full; of more, the last ones (the curves show all)."""
MAX_REASONS = 6
_NO_SHARES = (
    "error", "position bias", "unreadable", "health looks", "sensitivity looks", "specificity looks", "canaries",
    "canaries right",
)  # fmt: skip
"""Figures of the judge's health in which more is not better, or that are counts."""


def rounds_story(ledger: Ledger, history: History, revision_sha: str | None) -> dict[str, Any]:
    """Tell each round that led to a revision, and one that is open or was broken off there.

    Args:
        ledger: The ledger.
        history: What the revisions changed.
        revision_sha: The newest revision; rounds of other branches are only counted. None: there is none.

    Returns:
        `rounds` in order, `seeds` (what was bought before the first), and `of_other_branches`, their number.
    """
    every = ledger.rounds.all()
    own = _of_this_branch(ledger, every, revision_sha)
    facts = _facts(ledger, {row.round_id for row in own})
    steps = {step["round_id"]: step for step in history.steps}
    rounds = [_tell(row, facts[row.round_id], steps) for row in own]
    in_rounds = {row.round_id for row in every}
    seeds = ledger.file.rows(
        "SELECT SUM(calls), SUM(cost_usd) FROM calls_by_rounds WHERE round_id NOT IN (SELECT round_id FROM rounds)"
    )[0]
    return {
        "rounds": rounds,
        "seeds": {"calls": seeds[0] or 0, "cost_usd": seeds[1] or 0.0},
        "of_other_branches": len(in_rounds) - len(own),
    }


def _of_this_branch(ledger: Ledger, every: list[RoundRow], revision_sha: str | None) -> list[RoundRow]:
    if revision_sha is None:
        return every
    ancestors = {row[0] for row in ledger.rounds.ancestry(revision_sha)}
    finished = [row for row in every if row.child_sha in ancestors]
    numbers = [row.number for row in finished]
    # an unfinished round that a later one replaced (another judge, an older checkpoint) is no part of this branch
    opened = [row for row in every if row.child_sha is None and row.revision_sha in ancestors]
    return finished + [row for row in opened if row.number not in numbers]


def _facts(ledger: Ledger, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Sum up the tables of the ledger by round, each in one pass inside SQLite."""
    facts: dict[str, dict[str, Any]] = {name: _nothing() for name in wanted}
    for round_id, kind, reading, verdict, skill, count in ledger.file.stream(
        "SELECT e.round_id, e.kind, e.reading, e.verdict, COALESCE(p.skill, '?'), COUNT(*) FROM evidence e "
        "LEFT JOIN prompts p ON p.id = e.prompt_id GROUP BY 1, 2, 3, 4, 5"
    ):
        if round_id in facts:
            facts[round_id]["verdicts" if verdict else "readings"][kind][verdict or reading] += count
            if kind in ("screen", "probe") and reading in ("shows", "lacks"):
                facts[round_id]["looked"][skill] += count
                facts[round_id]["failed"][skill] += count * (reading == "lacks")
    for round_id, teacher, calls, cost_usd, lost in ledger.file.stream(
        "SELECT round_id, teacher, SUM(calls), SUM(cost_usd), SUM(lost) FROM calls_by_rounds GROUP BY 1, 2"
    ):
        if round_id in facts:
            facts[round_id]["calls"][teacher] += calls
            facts[round_id]["cost_usd"] += cost_usd
            facts[round_id]["lost"] += lost
    for round_id, kind, reason, count in ledger.file.stream(
        "SELECT round_id, kind, reason, COUNT(*) FROM decisions GROUP BY 1, 2, 3 ORDER BY 4 DESC, 3"
    ):
        if round_id in facts:
            facts[round_id]["decisions"][kind] += count
            reasons = facts[round_id]["reasons"].setdefault(kind, [])
            if reason and len(reasons) < MAX_REASONS:
                reasons.append([clean_text(reason)[:300], count])
    for round_id, looks, cost_usd in ledger.file.stream(
        "SELECT round_id, SUM(looks), SUM(cost_usd) FROM looks_by_rounds GROUP BY 1"
    ):
        if round_id in facts:
            facts[round_id]["looks"] = looks
            facts[round_id]["cost_usd"] += cost_usd
    _add_winners(ledger, facts)
    return facts


def _add_winners(ledger: Ledger, facts: dict[str, dict[str, Any]]) -> None:
    """Count, by skill, which teacher stood at the end of each duel; a tie leaves the first one standing."""
    for round_id, skill, first, second, preference, count in ledger.file.stream(
        "SELECT d.round_id, COALESCE(p.skill, '?'), d.first_teacher, d.second_teacher, d.preference, COUNT(*) "
        "FROM duels d LEFT JOIN prompts p ON p.id = d.prompt_id GROUP BY 1, 2, 3, 4, 5"
    ):
        if round_id in facts and preference in ("first", "second"):
            facts[round_id]["duels"].append(
                [skill, *((first, second) if preference == "first" else (second, first)), count]
            )


def _nothing() -> dict[str, Any]:
    return {
        "readings": defaultdict(Counter), "verdicts": defaultdict(Counter), "looked": Counter(), "failed": Counter(),
        "calls": Counter(), "cost_usd": 0.0, "lost": 0, "looks": 0, "decisions": Counter(), "reasons": {}, "duels": [],
    }  # fmt: skip


def _tell(row: RoundRow, facts: dict[str, Any], steps: dict[str, Any]) -> dict[str, Any]:
    figures, readings = row.figures, facts["readings"]
    compared = facts["verdicts"]["compare"]
    step = steps.get(row.round_id, {})
    changed = step.get("changed", {})
    status = "unfinished" if row.child_sha is None else "skipped" if figures.skipped else "finished"
    written = figures.written or sum(readings["screen"].values())  # an open round has counted nothing yet
    return {
        "round_id": row.round_id,
        "number": row.number + 1,
        "global_step": row.global_step,
        "status": status,
        "why": _why(status, figures),
        "written": written,
        "refused": dict(figures.refused),
        "shortfalls": figures.shortfalls,
        "screened": readings["screen"]["shows"] + readings["screen"]["lacks"],
        "failed": readings["screen"]["lacks"],
        "unreadable": sum(kinds["unreadable"] for kinds in readings.values()) + compared["invalid"],
        "probed": readings["probe"]["shows"] + readings["probe"]["lacks"],
        "probe_failed": readings["probe"]["lacks"],
        "unfaithful": readings["faithfulness"]["lacks"],
        "compared": {word: compared[word] for word in ("student", "tie", "teacher", "invalid")},
        "calls": dict(facts["calls"]),
        "cost_usd": round(facts["cost_usd"], 6),
        "lost": facts["lost"],
        "looks": facts["looks"],
        "added": step.get("added", {}),
        "mastered": changed.get("mastered", 0),
        "revived": changed.get("revived", 0),
        "retired": changed.get("retired", 0),
        "retired_unbought": changed.get("retired unbought", 0),
        "decisions": dict(facts["decisions"]),
        "reasons": facts["reasons"],
        "duels": facts["duels"],
        "looked_by_skill": dict(sorted(facts["looked"].items())),
        "failed_by_skill": {skill: facts["failed"][skill] for skill in sorted(facts["looked"])},
        "corrected_by_skill": corrected_shares(facts["looked"], facts["failed"], figures.judge_accuracy),
        "judge": judge_sentence(figures),
        "health": figures.judge,
        "pairs": pairs_story(figures),
        "dataset": {name: step[name] for name in ("live", "mastered", "retired")} if step else None,
    }


def pairs_story(figures: RoundFigures) -> dict[str, Any]:
    """Tell which subjects and kinds of change a round over pairs saw fail, and what was built; empty for other rounds.

    Args:
        figures: Of the round.
    """
    if not (told := figures.pairs):
        return {}
    cells = [{**cell, "category": clean_text(str(cell["category"]))[:80]} for cell in told["cells"]]
    reasons = {clean_text(reason)[:300]: count for reason, count in told["failures"].items()}
    return {**told, "problem": clean_text(told["problem"])[:600], "failures": reasons, "cells": cells}


def _why(status: str, figures: RoundFigures) -> str:
    if status == "unfinished":
        return (
            "It is still going on, or the run broke off in it. What was bought is kept; resuming the run finishes it."
        )
    if status == "finished":
        return ""
    if figures.skipped_because:
        return clean_text(figures.skipped_because)
    health = figures.judge
    shares = {name: value for name, value in health.items() if name not in _NO_SHARES}
    low = sorted(shares.items(), key=lambda item: item[1])[:3]
    said = ", ".join(f"{name} {value:.0%}" for name, value in low if value < 1)
    unread = f", {health['unreadable']:.0%} of its replies unreadable" if health.get("unreadable", 0) > 0.3 else ""
    return f"The judge was below its floors, so it decided nothing (its lowest marks: {said or 'none'}{unread})."


def looks_of(body: str) -> list[dict[str, Any]]:
    """Read the looks out of a row of evidence."""
    return [
        {
            "p": round(float(look["probability"]), 3),
            "mass": round(float(look["covered_mass"]), 3),
            "reason": clean_text(str(look.get("reason", "")))[:300],
        }
        for look in json.loads(body)["looks"]
    ]
