"""Seed prompts of the emoji world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records import Prompt, seed_of
from evolvedirector.worlds.emoji.scene import EmojiScene
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary


class EmojiPrompts:
    """Supply seed prompts spread evenly over the concepts of a vocabulary; held-out combinations are left out."""

    def __init__(self, vocabulary: EmojiVocabulary | None = None, count: int = 48, seed: int = 0) -> None:
        """Choose how many.

        Args:
            vocabulary: What they are about. None: the default two dozen concepts.
            count: How many prompts.
            seed: Which ones.

        Raises:
            UserError: The vocabulary does not have that many.
            AssetError: The assets are missing.
        """
        self.vocabulary = vocabulary or EmojiVocabulary()
        scenes = self.vocabulary.scenes(held_out=False)
        texts = [(text, scene) for scene in scenes for text in self.vocabulary.texts(scene)]
        if not 1 <= count <= len(texts):
            raise UserError(
                f"count is {count}. Allowed are 1 to {len(texts)} with this vocabulary. "
                "Write a smaller count, or more concepts or phrasings."
            )
        draw = np.random.default_rng(seed_of("emoji prompts", seed))
        turns: dict[str, int] = {}
        ranked: list[tuple[int, int, str, EmojiScene]] = []
        for row in draw.permutation(len(texts)):
            text, scene = texts[row]
            turns[scene.label] = turns.get(scene.label, 0) + 1
            ranked.append((turns[scene.label], len(ranked), text, scene))
        self._prompts = tuple(
            Prompt.create(text, skill=self.vocabulary.skill_of(scene))
            for _, _, text, scene in sorted(ranked, key=lambda r: r[:2])[:count]
        )

    def prompts(self) -> Sequence[Prompt]:
        """List the seeds, every concept once before any comes twice."""
        return self._prompts
