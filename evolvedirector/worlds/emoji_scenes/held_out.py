"""Held-out prompts of composed emoji scenes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from evolvedirector.errors import UserError
from evolvedirector.records import Prompt
from evolvedirector.worlds.emoji.grammar import scene_text
from evolvedirector.worlds.emoji_scenes.world import EmojiWorld


class EmojiSceneHeldOut:
    """Supply prompts of the combinations that no seed and no writer uses, for evaluation."""

    def __init__(self, world: EmojiWorld | None = None, per_skill: int = 16, seed: int = 0) -> None:
        """Choose how many.

        Args:
            world: The one that the run trains on, held_out_share included. None: the default two dozen concepts.
            per_skill: Prompts of each skill; fewer where the held-out combinations have no more.
            seed: Which of them; another seed lists others of the same held-out combinations.

        Raises:
            UserError: Fewer than one per skill, or a skill without held-out combinations.
            AssetError: The assets are missing.
        """
        if per_skill < 1:
            raise UserError(f"per_skill is {per_skill}. Allowed is 1 or more. Write 16, or leave held_out out.")
        self.world = world or EmojiWorld()
        prompts: list[Prompt] = []
        for skill in self.world.skills:
            scenes = list(islice(self.world.shuffled(skill, seed, held_out=True), per_skill))
            if not scenes:
                raise UserError(
                    f"held_out_share {self.world.held_out_share} holds out nothing of {skill} among "
                    f"{len(self.world.labels)} concepts. Allowed is a share that does. Write a larger one, or more "
                    "concepts, or leave the skill out."
                )
            prompts.extend(Prompt.create(scene_text(scene), skill=skill) for scene in scenes)
        self._prompts = tuple(prompts)

    def prompts(self) -> Sequence[Prompt]:
        """List the held-out prompts, skill by skill."""
        return self._prompts
