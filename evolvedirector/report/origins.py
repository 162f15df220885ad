"""Whether evolution finds what the student fails: the failing share of candidates, children apart from new ideas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolvedirector.report.charts import Chart, shares_over_rounds
from evolvedirector.report.headline import interval, percent
from evolvedirector.report.judges import corrected_shares
from evolvedirector.store.ledger import Ledger

ORIGINS = {"all": "all candidates", "expansion": "children of failed prompts", "mutation": "new ideas"}
"""What candidates are told apart by, in words."""
Row = Mapping[str, Any]


def failed_by_origin(ledger: Ledger, revision_sha: str) -> list[dict[str, Any]]:
    """Return, round by round, how many candidates the student failed: all, children (expansion), mutations.

    Candidates are prompts that it was never trained on, counted by their first look. Where the accuracy of the judge
    was measured, share and interval (95 %) are those of the truth, the error of the measurement included.

    Args:
        ledger: The ledger.
        revision_sha: The newest revision; rounds of other branches are left out, and so are those without a candidate.

    Returns:
        `round` (from 0) and `origins`: by `all`, `expansion` and `mutation`, as far as there were such, `looked`,
        `failed`, `share` and `interval`; the last two are None where the judge's looks say nothing.
    """
    finished = ledger.rounds.finished(revision_sha)
    looked: dict[str, dict[str, int]] = {}
    failed: dict[str, dict[str, int]] = {}
    for round_id, _, origin, looks, fails in ledger.looks.screened_by_operation([row.round_id for row in finished]):
        for name in ("all", origin):
            for sums, count in ((looked, looks), (failed, fails)):
                of_round = sums.setdefault(round_id, {})
                of_round[name] = of_round.get(name, 0) + count
    found = []
    for row in finished:
        if row.round_id in looked:
            counts, fails_of = looked[row.round_id], failed[row.round_id]
            shares = corrected_shares(counts, fails_of, row.figures.judge_accuracy)
            unknown = {"share": None, "interval": None}
            origins = {
                name: {"looked": counts[name], "failed": fails_of[name], **shares.get(name, unknown)}
                for name in ORIGINS
                if name in counts
            }
            found.append({"round": row.number, "origins": origins})
    return found


def origins_sentence(rows: Sequence[Row]) -> str:
    """Say what children and new ideas yield in the first and the last round that had both; empty where none had.

    Args:
        rows: As `failed_by_origin` returns them.
    """
    both = [
        row
        for row in rows
        if all(row["origins"].get(name, {}).get("share") is not None for name in ("expansion", "mutation"))
    ]
    if not both:
        return ""

    def said(row: Row) -> str:
        children, ideas = (row["origins"][name] for name in ("expansion", "mutation"))
        return (
            f"in round {row['round'] + 1} the student failed {percent(children['share'])} of the children of failed "
            f"prompts{interval(children['interval'])} and {percent(ideas['share'])} of new ideas"
            f"{interval(ideas['interval'])}"
        )

    first, *further = [said(row) for row in (both[:1] if len(both) == 1 else (both[0], both[-1]))]
    return ", ".join([first[0].upper() + first[1:], *further]) + "."


def origins_chart(rows: Sequence[Row]) -> Chart | None:
    """Draw the failing shares over the rounds with their intervals; None without any.

    Args:
        rows: As `failed_by_origin` returns them.
    """
    lines = {
        said: [
            (row["round"] + 1, of["share"], of["interval"], f"({of['failed']} of {of['looked']})")
            for row in rows
            if (of := row["origins"].get(name)) and of["share"] is not None
        ]
        for name, said in ORIGINS.items()
    }
    note = (
        "Share of new prompts that the student fails, without the judge's mistakes where they were measured; the lines "
        "are 95 % intervals. Children that fail more often than new ideas are where a gap was found."
    )
    found = {said: points for said, points in lines.items() if points}
    return shares_over_rounds("origins", "Who finds what the student fails", note, found)
