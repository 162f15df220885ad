"""Images as rewards find them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evolvedirector.records import ImageAndPrompt
from evolvedirector.records.part import close_parts
from evolvedirector.rewards.reward import Reward


def scores_of(rewards: Mapping[str, Reward], items: Sequence[ImageAndPrompt]) -> dict[str, dict[str, float | None]]:
    """Score each image with each reward: by item and the reward's name; None where it could not be scored.

    One reward after the other is loaded beside the student, and closed again.

    Args:
        rewards: By name.
        items: Encoded images with their prompts.
    """
    found: dict[str, dict[str, float | None]] = {item.item_id: dict.fromkeys(rewards) for item in items}
    for name, reward in rewards.items():
        try:
            for score in reward.score(items):
                found[score.item_id][name] = score.value if math.isfinite(score.value) else None
        finally:
            close_parts(reward)
    return found
