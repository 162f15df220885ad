"""What changed from one revision of a root to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from evolvedirector.records import DatasetState, PromptState

StateChange = tuple[PromptState | None, PromptState | None]
"""Of a prompt: its state before and after; None where it is not in the revision."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Two revisions, compared.

    Args:
        states: Change of state by prompt id, of those whose state is another.
        added: Keys of samples that only the second has.
        removed: Keys of samples that only the first has: others took their place.
        skill_weights: Weight before and after by skill, of those whose weight is another; None where none is stated.
        replay_share: Before and after.
        reweighed: Samples whose own draw weight is another.
    """

    states: Mapping[str, StateChange]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    skill_weights: Mapping[str, tuple[float | None, float | None]]
    replay_share: tuple[float, float]
    reweighed: int

    @property
    def counts(self) -> dict[StateChange, int]:
        """How many prompts changed their state in each way, most frequent first."""
        return dict(Counter(self.states.values()).most_common())

    @property
    def is_empty(self) -> bool:
        """Whether both hold and draw the same."""
        unlike = self.states or self.added or self.removed or self.skill_weights or self.reweighed
        return not unlike and self.replay_share[0] == self.replay_share[1]


def difference(before: DatasetState, after: DatasetState) -> Difference:
    """Compare two revisions; neither needs to come from the other.

    Args:
        before: The first.
        after: The second.
    """
    first = {prompt_id: entry.state for prompt_id, entry in before.entries.items()}
    second = {prompt_id: entry.state for prompt_id, entry in after.entries.items()}
    ids = [*second, *(prompt_id for prompt_id in first if prompt_id not in second)]
    states = {i: (first.get(i), second.get(i)) for i in ids if first.get(i) != second.get(i)}
    old, new = _keys(before), _keys(after)
    weights = {
        skill: (before.skill_weights.get(skill), after.skill_weights.get(skill))
        for skill in sorted({*before.skill_weights, *after.skill_weights})
        if before.skill_weights.get(skill) != after.skill_weights.get(skill)
    }
    both = old.keys() & new.keys()
    reweighed = sum(before.sample_weights.get(key, 1.0) != after.sample_weights.get(key, 1.0) for key in both)
    return Difference(
        states,
        tuple(key for key in new if key not in old),
        tuple(key for key in old if key not in new),
        weights,
        (before.replay_share, after.replay_share),
        reweighed,
    )


def _keys(state: DatasetState) -> dict[str, None]:
    return {sample.key: None for entry in state.entries.values() for sample in entry.samples}
