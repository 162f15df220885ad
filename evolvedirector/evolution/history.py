"""What earlier rounds saw, as a policy sees it: summed up in the ledger, along the ancestry of one revision."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from evolvedirector.records import RoundHistory, Tally
from evolvedirector.store.ledger import Ledger


def past_rounds(ledger: Ledger, revision_sha: str) -> tuple[RoundHistory, ...]:
    """List the finished rounds that led to a revision, oldest first; a fork sees its own past only.

    A round without a readable screened prompt says nothing about the student and is left out.

    Args:
        ledger: The books of the root.
        revision_sha: The revision that a round is about to start from.
    """
    finished = ledger.rounds.finished(revision_sha)
    names = [row.round_id for row in finished]
    screened: dict[str, list[tuple[str, str, Tally]]] = {}
    for round_id, skill, lineage_id, looked, failed in ledger.looks.screened(names):
        screened.setdefault(round_id, []).append((skill, lineage_id, Tally(looked, failed)))
    failures = ledger.looks.failed(names)
    return tuple(
        history_of(row.round_id, row.figures.judge_error or 0.0, screened[row.round_id], failures.get(row.round_id, ()))
        for row in finished
        if row.round_id in screened
    )


def history_of(
    round_id: str, judge_error: float, screened: Iterable[tuple[str, str, Tally]], failed: Collection[str]
) -> RoundHistory:
    """Add up one round's screened prompts by skill and by lineage.

    Args:
        round_id: Names the round.
        judge_error: Estimated share of wrong looks in that round.
        screened: Skill, lineage, and the readable looks at such prompts.
        failed: Ids of the prompts that the student failed.
    """
    skills: dict[str, Tally] = {}
    lineages: dict[str, Tally] = {}
    for skill, lineage_id, tally in screened:
        for sums, name in ((skills, skill), (lineages, lineage_id)):
            sum_ = sums.get(name, Tally())
            sums[name] = Tally(sum_.looked + tally.looked, sum_.failed + tally.failed)
    return RoundHistory(
        round_id, judge_error, dict(sorted(skills.items())), dict(sorted(lineages.items())), frozenset(failed)
    )
