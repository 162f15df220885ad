"""Which prompts are read when reading all of them would cost too much."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from evolvedirector.records import Prompt, seed_of


def spread_over_skills(prompts: Sequence[Prompt], most: int, seed: int) -> list[Prompt]:
    """Choose up to `most` prompts, from each skill about equally many; the same ones for the same seed.

    Args:
        prompts: To choose from, in any order.
        most: Prompts at most.
        seed: Names the choice.
    """
    by_skill: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: seed_of("choice", seed, p.id)):
        by_skill.setdefault(prompt.skill, []).append(prompt)
    in_turn = zip_longest(*(by_skill[skill] for skill in sorted(by_skill)))
    return [prompt for turn in in_turn for prompt in turn if prompt is not None][:most]
