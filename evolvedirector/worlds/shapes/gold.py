"""A gold set of the miniature world: what its reader says is true, so every answer is known."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.records import GoldItem, digest, seed_of
from evolvedirector.worlds.shapes.artist import draw, to_png
from evolvedirector.worlds.shapes.atoms import matches
from evolvedirector.worlds.shapes.grammar import phrase, shuffled
from evolvedirector.worlds.shapes.reader import read
from evolvedirector.worlds.shapes.scene import Scene
from evolvedirector.worlds.shapes.weaknesses import Weaknesses
from evolvedirector.worlds.shapes.world import World

_WEAKNESSES = (
    Weaknesses(miscount=1.0),
    Weaknesses(swap_colours=1.0),
    Weaknesses(confuse_relations=1.0),
    Weaknesses(wrong_shape=1.0),
)
_DRAWINGS = 8
"""Drawings tried before another mistake or scene is: at 32 px the reader misses a few in a hundred."""


class MiniatureGold:
    """Draw a gold set over all skills of a world: half of the images show their prompt, half nearly do.

    A near miss has one mistake that a student would make: another number, exchanged colours, another relation, another
    shape or another colour. A judge that only tells pictures from noise says yes to all of them.

    Args:
        world: The words.
        count: Images in all, 2 or more; an odd one more shows its prompt. 40 tell an error of 10 % from one of 30 %.
        seed: Which scenes, mistakes and drawings.
        image_size_px: Side of the images.

    Raises:
        UserError: Fewer than 2 images, or scenes that the reader cannot read at this size.
    """

    def __init__(
        self,
        world: World = World(),  # noqa: B008 - frozen
        count: int = 40,
        seed: int = 0,
        image_size_px: int = 32,
    ) -> None:
        if count < 2:
            raise UserError(f"count={count}. Allowed is 2 or more: one of each answer. Write 40.")
        self.world = world
        self.count = count
        self.seed = seed
        self.image_size_px = image_size_px
        self._items = tuple(self._make(number) for number in range(count))

    def items(self) -> Sequence[GoldItem]:
        """List the items, those that show their prompt and near misses in turn."""
        return self._items

    def _make(self, number: int) -> GoldItem:
        shows = number % 2 == 0
        turn, which = divmod(number // 2, len(self.world.skills))
        skill = self.world.skills[which]
        every = shuffled(self.world, skill, seed_of("gold", self.seed, shows))
        for scene in every[turn % len(every) :] + every[: turn % len(every)]:
            rng = np.random.default_rng(seed_of("gold", self.seed, number, repr(scene)))
            for drawn in (scene,) if shows else self._near_misses(scene, rng):
                image = self._draw(scene, drawn, number)
                if image is not None:
                    prompt = phrase(scene)
                    return GoldItem(digest("gold", number, prompt), image, prompt, shows)
        if shows:
            raise UserError(
                f"No image of skill {skill!r} can be read at image_size_px={self.image_size_px}. Allowed is a size at "
                "which objects have 9 px or more. Write 32, or 64 for more than four objects."
            )
        raise UserError(
            f"Nothing can be drawn wrongly in skill {skill!r} of this world so that it shows at "
            f"{self.image_size_px} px. Allowed are worlds with two shapes or colours. Add a word, or "
            "leave the skill out."
        )

    def _near_misses(self, scene: Scene, rng: np.random.Generator) -> Iterator[Scene]:
        """Yield scenes with one mistake, in a drawn order of mistakes; what does not apply is left out."""
        for kind in rng.permutation(len(_WEAKNESSES) + 1):
            missed = (
                _WEAKNESSES[kind].distort(scene, self.world, rng)
                if kind < len(_WEAKNESSES)
                else _recoloured(scene, self.world, rng)
            )
            if missed != scene:
                yield missed

    def _draw(self, asked: Scene, drawn: Scene, number: int) -> bytes | None:
        """Draw until the reader sees what was drawn, and what was asked for exactly where both are the same."""
        for attempt in range(_DRAWINGS):
            seed = seed_of("gold drawing", self.seed, number, attempt)
            try:
                image = to_png(draw(drawn, self.image_size_px, self.image_size_px, seed))
            except ValueError:
                if attempt == 0 and asked == drawn:
                    raise
                return None
            with Image.open(io.BytesIO(image)) as opened:
                reading = read(opened.convert("RGB"), self.world)
            if matches(drawn, reading) and matches(asked, reading) == (asked == drawn):
                return image
        return None


def _recoloured(scene: Scene, world: World, rng: np.random.Generator) -> Scene:
    """Give one thing another colour; return the scene itself where no colour is free."""
    taken = {thing.kind for thing in scene.things}
    options = [
        (index, colour)
        for index, thing in enumerate(scene.things)
        for colour in world.colours
        if (thing.shape, colour) not in taken
    ]
    if not options:
        return scene
    index, colour = options[rng.integers(len(options))]
    changed = replace(scene.things[index], colour=colour)
    return replace(scene, things=(*scene.things[:index], changed, *scene.things[index + 1 :]))
