"""What earlier rounds saw, as a policy sees it: summed up in the ledger, along the ancestry of one revision."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from evolvedirector.records import JudgeAccuracy, Origin, RoundHistory, Tally
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
    operations: dict[str, dict[tuple[str, Origin], Tally]] = {}
    for round_id, skill, origin, looked, failed in ledger.looks.screened_by_operation(names):
        operations.setdefault(round_id, {})[skill, origin] = Tally(looked, failed)
    failures = ledger.looks.failed(names)
    return tuple(
        history_of(
            row.round_id,
            row.figures.judge_accuracy,
            screened[row.round_id],
            failures.get(row.round_id, ()),
            operations.get(row.round_id, {}),
        )
        for row in finished
        if row.round_id in screened
    )


def history_of(
    round_id: str,
    judge: JudgeAccuracy,
    screened: Iterable[tuple[str, str, Tally]],
    failed: Collection[str],
    operations: Mapping[tuple[str, Origin], Tally] | None = None,
) -> RoundHistory:
    """Add up one round's screened prompts by skill and by lineage.

    Args:
        round_id: Names the round.
        judge: How far the judge was right in that round.
        screened: Skill, lineage, and the readable looks at such prompts.
        failed: Ids of the prompts that the student failed.
        operations: The looks by skill and by the operation that wrote the prompt. None: not known.
    """
    skills: dict[str, Tally] = {}
    lineages: dict[str, Tally] = {}
    for skill, lineage_id, tally in screened:
        for sums, name in ((skills, skill), (lineages, lineage_id)):
            sum_ = sums.get(name, Tally())
            sums[name] = Tally(sum_.looked + tally.looked, sum_.failed + tally.failed)
    return RoundHistory(
        round_id,
        judge,
        dict(sorted(skills.items())),
        dict(sorted(lineages.items())),
        frozenset(failed),
        dict(sorted((operations or {}).items())),
    )
