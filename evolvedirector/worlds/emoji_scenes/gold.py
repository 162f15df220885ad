"""A gold set of the emoji world: drawn by its artists, so every answer is known without any reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from evolvedirector.records import GoldItem, digest, seed_of
from evolvedirector.worlds.emoji.artist import EmojiArtist, encode_png
from evolvedirector.worlds.emoji.concept import STYLES
from evolvedirector.worlds.emoji.grammar import scene_text
from evolvedirector.worlds.emoji.layout import Layout
from evolvedirector.worlds.emoji.scene import EmojiScene
from evolvedirector.worlds.emoji.weaknesses import EmojiWeaknesses
from evolvedirector.worlds.emoji_scenes.world import EmojiWorld

_MISTAKES = (
    EmojiWeaknesses(miscount=1.0),
    EmojiWeaknesses(confuse_relations=1.0),
    EmojiWeaknesses(wrong_concept=1.0),
    EmojiWeaknesses(drop_object=1.0),
    EmojiWeaknesses(wrong_background=1.0),
)


class EmojiGold:
    """Draw a gold set over all skills and styles of a world: half of the images show their prompt, half nearly do.

    A near miss has one mistake that a student would make: another number, relation, concept or background, or a
    missing object. A judge that only tells pictures from noise says yes to all of them.
    """

    def __init__(
        self,
        world: EmojiWorld | None = None,
        count: int = 40,
        seed: int = 0,
        image_size_px: int = 48,
        layout: Layout = "tidy",
    ) -> None:
        """Choose how many.

        Args:
            world: What is drawn. None: the default two dozen concepts.
            count: Images in all, 2 or more; an odd one more shows its prompt.
            seed: Which scenes, mistakes and drawings.
            image_size_px: Side of the images, 8 to 1024.
            layout: How several objects lie, as the teachers of the run have it.

        Raises:
            ValueError: Fewer than 2 images, or a size out of range.
            AssetError: The assets are missing or cannot be drawn.
        """
        if count < 2:
            raise ValueError(f"count is {count}. Allowed is 2 or more: one of each answer. Write 40.")
        self.world = world or EmojiWorld()
        self._artists = [EmojiArtist(self.world.vocabulary, style, layout) for style in STYLES]
        self._size_px = image_size_px
        self._items = tuple(self._make(number, seed) for number in range(count))

    def items(self) -> Sequence[GoldItem]:
        """List the items, those that show their prompt and near misses in turn."""
        return self._items

    def _make(self, number: int, seed: int) -> GoldItem:
        shows = number % 2 == 0
        skill = self.world.skills[number // 2 % len(self.world.skills)]
        scene = next(self.world.shuffled(skill, seed_of("emoji gold", seed, number)))
        draw = np.random.default_rng(seed_of("emoji gold", seed, number, "mistake"))
        artist = self._artists[int(draw.integers(len(self._artists)))]
        drawn = scene if shows else next(self._near_misses(scene, artist, draw))
        image = encode_png(artist.draw(drawn, seed_of(seed, number), self._size_px, self._size_px))
        prompt = scene_text(scene)
        return GoldItem(digest("emoji gold", number, prompt), image, prompt, shows)

    def _near_misses(self, scene: EmojiScene, artist: EmojiArtist, draw: np.random.Generator) -> Iterator[EmojiScene]:
        """Yield scenes with one mistake, in a drawn order of mistakes; what does not apply is left out."""
        concepts = self.world.vocabulary.concepts
        drawn = [_MISTAKES[kind].distort(scene, concepts, draw) for kind in draw.permutation(len(_MISTAKES))]
        others = [concept.label for concept in concepts if concept.label not in scene.objects]
        drawn += [replace(scene, things=(replace(scene.things[0], label=label), *scene.things[1:])) for label in others]
        yield from (missed for missed in drawn if not self._looks_alike(missed, scene, artist))

    def _looks_alike(self, first: EmojiScene, second: EmojiScene, artist: EmojiArtist) -> bool:
        """Tell whether two scenes are drawn with the same pictures: some concepts share one in some styles."""
        if first == second:
            return True
        if (first.relation, first.background) != (second.relation, second.background):
            return False
        pictures = [[artist.raster(artist.vocabulary[label]).tobytes() for label in s.objects] for s in (first, second)]
        return pictures[0] == pictures[1]
