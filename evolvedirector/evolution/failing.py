"""Which skills a student fails, as the rounds that led to a revision saw it."""

from __future__ import annotations

from evolvedirector.evolution.history import past_rounds
from evolvedirector.policies.screening.rates import folded_rates
from evolvedirector.records.judge_accuracy import clipped
from evolvedirector.store.dataset import DatasetStore


def failing_skills(store: DatasetStore, revision_sha: str, smoothing: float = 0.5) -> list[tuple[str, float]]:
    """Rank skills by the share of unseen prompts that fail: f <- (1 - a) f + a x, corrected for the judge's mistakes.

    Only rounds of the revision's own past count, so that the same revision always gives the same ranking. A skill that
    was never looked at, or has no image to train on, is left out.

    Args:
        store: Holds the books.
        revision_sha: That is trained on.
        smoothing: a, weight of the newest round; x is its failed share.

    Returns:
        Skill and share, the most failed first; of equals the first by name.
    """
    entries = store.state(revision_sha).entries.values()
    trainable = {entry.prompt.skill for entry in entries if entry.sample and entry.state in ("live", "mastered")}
    history = past_rounds(store.ledger, revision_sha)
    seen = {skill for past in history for skill in past.skills}
    rates = folded_rates([(past.skills, past.judge) for past in history], seen & trainable, smoothing)
    return sorted(((skill, clipped(rate)) for skill, rate in rates.items()), key=lambda found: (-found[1], found[0]))
