"""Seed prompts out of the grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records import Prompt, digest, seed_of
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.worlds.shapes.grammar import phrase, shuffled
from evolvedirector.worlds.shapes.held_out import excluder
from evolvedirector.worlds.shapes.scene import Scene
from evolvedirector.worlds.shapes.world import World


def apportion(count: int, shares: Sequence[float], limits: Sequence[int]) -> list[int]:
    """Split a count by shares with no part over its limit; what a full part cannot take goes to the others.

    Args:
        count: how many to split.
        shares: non-negative weights.
        limits: largest value per part.

    Returns:
        Whole numbers that sum to the smaller of `count` and what the limits allow.
    """
    parts = [0] * len(shares)
    for _ in range(count):
        # the part furthest behind its share takes the next one (Sainte-Lague), so prefixes are fair too
        order = [
            (share / (2 * part + 1), -index)
            for index, (share, part, limit) in enumerate(zip(shares, parts, limits, strict=True))
            if part < limit and share > 0
        ]
        if not order:
            break
        parts[-max(order)[1]] += 1
    return parts


class MiniaturePrompts:
    """List distinct seed prompts of the miniature world, drawn by seed and mixed over the skills.

    Args:
        world: the words.
        count: how many prompts; without `shares`, a skill with too few scenes leaves its part to the others.
        seed: which prompts, and their order.
        shares: weight per skill, for a skewed start such as `{single_object: 0.95, counting: 0.05}`; None: all equal.
        held_out: prompts never listed, by whole combinations when it is `HeldOutPrompts`; None: all may be listed.
        repeats: a text that is used up comes again as another prompt, with an image of its own, as when users ask for
            the same thing twice; off: each text once.

    Raises:
        UserError: no prompts asked for, unknown skills, or more prompts than there are.
    """

    def __init__(
        self,
        world: World = World(),  # noqa: B008 - frozen
        count: int = 48,
        seed: int = 0,
        shares: dict[str, float] | None = None,
        held_out: PromptSource | None = None,
        repeats: bool = False,
    ) -> None:
        if count < 1:
            raise UserError(f"count={count}. Allowed is 1 or more. Write 48.")
        for skill, share in (shares or {}).items():
            if skill not in world.skills or not share >= 0:
                raise UserError(
                    f"shares[{skill!r}]={share}. Allowed are weights of 0 or more for {', '.join(world.skills)}."
                    " Leave the skill out, or add it to the world's skills."
                )
        if shares is not None and not sum(shares.values()) > 0:
            raise UserError(f"shares={shares}. Allowed is at least one weight over 0. Write null for equal shares.")
        self.world = world
        self.count = count
        self.seed = seed
        self.shares = shares
        self.held_out = held_out
        self.repeats = repeats

    def prompts(self) -> Sequence[Prompt]:
        """List the seeds; the same parameters list the same seeds.

        Raises:
            UserError: more prompts asked for than the skills have.
        """
        is_held_out = excluder(self.held_out)
        shares = self.shares or dict.fromkeys(self.world.skills, 1.0)
        free: dict[str, list[Scene]] = {
            skill: [scene for scene in shuffled(self.world, skill, self.seed) if not is_held_out(scene)]
            for skill, share in shares.items()
            if share > 0
        }
        limits = [self.count if self.repeats and scenes else len(scenes) for scenes in free.values()]
        weights = [shares[skill] for skill in free]
        if self.shares is not None and not self.repeats:
            for skill, part in zip(free, apportion(self.count, weights, [self.count] * len(free)), strict=True):
                if part > len(free[skill]):
                    raise UserError(
                        f"count={self.count} with these shares needs {part} prompts of {skill}. "
                        f"There are {len(free[skill])}. Write a smaller count or share, or add words to the world."
                    )
        if self.count > sum(limits):
            raise UserError(
                f"count={self.count}. The skills {', '.join(free)} have {sum(limits)} prompts that are not held out. "
                "Write a smaller count, or add words to the world."
            )
        parts = apportion(self.count, weights, limits)
        listed = [
            repetition(Prompt.create(phrase(scenes[index % len(scenes)]), skill=skill), index // len(scenes))
            for (skill, scenes), part in zip(free.items(), parts, strict=True)
            for index in range(part)
        ]
        order = np.random.default_rng(seed_of("prompts", self.seed)).permutation(len(listed))
        return [listed[index] for index in order]


def repetition(prompt: Prompt, number: int) -> Prompt:
    """Return a prompt of the same text with an id, and so an image, of its own; number 0 is the prompt itself."""
    if number == 0:
        return prompt
    own_id = digest("repetition", prompt.id, number)
    return replace(prompt, id=own_id, lineage_id=own_id)
