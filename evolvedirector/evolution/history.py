"""What earlier rounds saw, as a policy sees it: built from the ledger, along the ancestry of one revision."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from evolvedirector.policies.screening.rates import tallies_by
from evolvedirector.records import DatasetState, Evidence, Prompt, PromptEntry, RoundHistory

if TYPE_CHECKING:
    from evolvedirector.store.dataset import DatasetStore


def past_rounds(store: DatasetStore, revision_sha: str) -> tuple[RoundHistory, ...]:
    """List the finished rounds that led to a revision, oldest first; a fork sees its own past only.

    A round without a readable screened prompt says nothing about the student and is left out.

    Args:
        store: The dataset, with its ledger.
        revision_sha: The revision that a round is about to start from.
    """
    prompts = store.ledger.prompts()
    found = []
    for row in store.ledger.finished_rounds(revision_sha):
        screened = [item for item in store.ledger.evidence(row.round_id) if item.kind == "screen"]
        past = history_of(row.round_id, row.figures.judge_error or 0.0, screened, prompts)
        if past.skills:
            found.append(past)
    return tuple(found)


def history_of(round_id: str, judge_error: float, evidence: list[Evidence], prompts: dict[str, Prompt]) -> RoundHistory:
    """Count one round's screened prompts by skill and by lineage.

    Args:
        round_id: Names the round.
        judge_error: Estimated share of wrong looks in that round.
        evidence: What the round saw; only `screen` counts.
        prompts: By id, every prompt that the evidence is about.
    """
    screened = [item for item in evidence if item.kind == "screen" and item.prompt_id in prompts]
    entries = {item.prompt_id: PromptEntry(_as_seen(prompts[item.prompt_id], item), "candidate") for item in screened}
    state = DatasetState("", entries)
    return RoundHistory(
        round_id,
        judge_error,
        skills=tallies_by(state, screened, {"screen"}, lambda prompt: prompt.skill),
        lineages=tallies_by(state, screened, {"screen"}, lambda prompt: prompt.lineage_id),
        failed=frozenset(item.prompt_id for item in screened if item.reading == "lacks"),
    )


def _as_seen(prompt: Prompt, item: Evidence) -> Prompt:
    """Give a prompt the skill and lineage it had then: the ledger keeps those of the first time it was written."""
    return replace(prompt, skill=item.skill or prompt.skill, lineage_id=item.lineage_id or prompt.lineage_id)
