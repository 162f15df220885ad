"""Seed prompts of composed emoji scenes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records import Prompt, seed_of
from evolvedirector.worlds.emoji.grammar import scene_text
from evolvedirector.worlds.emoji_scenes.world import EmojiWorld
from evolvedirector.worlds.shapes.prompts import apportion


class EmojiScenePrompts:
    """Supply seed prompts drawn over the skills of an emoji world; held-out combinations are left out."""

    def __init__(
        self, world: EmojiWorld | None = None, count: int = 60, seed: int = 0, shares: dict[str, float] | None = None
    ) -> None:
        """Choose how many of which skill.

        Args:
            world: What they are about. None: the default two dozen concepts.
            count: How many prompts; a skill with too few scenes leaves its part to the others.
            seed: Which ones, and their order.
            shares: Weight per skill, for a skewed start. None: all equal.

        Raises:
            UserError: The world does not have that many, or a share names no skill of it or is negative.
            AssetError: The assets are missing.
        """
        self.world = world or EmojiWorld()
        for skill, share in (shares or {}).items():
            if skill not in self.world.skills or not share >= 0:
                raise UserError(
                    f"shares[{skill!r}] is {share}. Allowed are weights of 0 or more for "
                    f"{', '.join(self.world.skills)}. Leave the skill out, or add it to the world's skills."
                )
        wanted = shares or dict.fromkeys(self.world.skills, 1.0)
        scenes = {
            skill: list(islice(self.world.shuffled(skill, seed), max(0, count)))
            for skill, share in wanted.items()
            if share > 0
        }
        available = sum(map(len, scenes.values()))
        if not 1 <= count <= available:
            raise UserError(
                f"count is {count}. Allowed are 1 to {available} with this world and these shares. "
                "Write a smaller count, or more concepts."
            )
        parts = apportion(count, [wanted[skill] for skill in scenes], [len(listed) for listed in scenes.values()])
        prompts = [
            Prompt.create(scene_text(scene), skill=skill)
            for (skill, listed), part in zip(scenes.items(), parts, strict=True)
            for scene in listed[:part]
        ]
        order = np.random.default_rng(seed_of("emoji scene prompts", seed)).permutation(len(prompts))
        self._prompts = tuple(prompts[index] for index in order)

    def prompts(self) -> Sequence[Prompt]:
        """List the seeds; the same parameters list the same seeds."""
        return self._prompts
