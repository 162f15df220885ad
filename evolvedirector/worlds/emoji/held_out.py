"""Held-out prompts of the emoji world."""

from __future__ import annotations

from collections.abc import Sequence

from evolvedirector.errors import UserError
from evolvedirector.records import Prompt, digest
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary


class EmojiHeldOut:
    """Supply the combinations of concept and background that no seed and no writer uses, for evaluation."""

    def __init__(self, vocabulary: EmojiVocabulary | None = None, count: int | None = None) -> None:
        """Choose how many.

        Args:
            vocabulary: The one that the run trains on, held_out_backgrounds included. None: the default one.
            count: How many prompts. None: all of them.

        Raises:
            UserError: The vocabulary does not hold out that many.
            AssetError: The assets are missing.
        """
        self.vocabulary = vocabulary or EmojiVocabulary()
        scenes = self.vocabulary.scenes(held_out=True)
        wanted = len(scenes) if count is None else count
        if not 1 <= wanted <= len(scenes):
            raise UserError(
                f"count is {wanted}. Allowed are 1 to {len(scenes)}, the combinations that the vocabulary holds out. "
                "Write a smaller count, or a larger held_out_backgrounds (1 or more)."
            )
        scenes.sort(key=lambda scene: digest("held out", scene.background or "", scene.label))
        self._prompts = tuple(
            Prompt.create(self.vocabulary.texts(scene)[0], skill=self.vocabulary.skill_of(scene))
            for scene in scenes[:wanted]
        )

    def prompts(self) -> Sequence[Prompt]:
        """List the held-out prompts; a smaller count is the beginning of a larger one."""
        return self._prompts
