"""What a teacher of the miniature world gets wrong, so that choosing among teachers matters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evolvedirector.worlds.shapes.scene import MAX_OBJECTS, RELATIONS, Scene, Thing
from evolvedirector.worlds.shapes.world import World


@dataclass(frozen=True, slots=True)
class Weaknesses:
    """Probabilities with which an artist draws something else than asked.

    Args:
        miscount: one object too few or too many, for things that come in numbers.
        swap_colours: two things exchange their colours; nothing happens where all colours agree.
        confuse_relations: another of the four relations.
        wrong_shape: one thing in another shape of the world.

    Raises:
        ValueError: a probability outside of 0 to 1.
    """

    miscount: float = 0.0
    swap_colours: float = 0.0
    confuse_relations: float = 0.0
    wrong_shape: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        for name in self.__slots__:
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}={value}. Allowed is a probability from 0 to 1. Write 0 for never.")

    def distort(self, scene: Scene, world: World, rng: np.random.Generator) -> Scene:
        """Return the scene that is drawn instead of the one asked for.

        Args:
            scene: what was asked for.
            world: where other shapes come from.
            rng: source of the draws; always the same number of them, so that weaknesses do not disturb each other.
        """
        draws = rng.random(4)
        if draws[0] < self.miscount:
            scene = _miscounted(scene, rng)
        if draws[1] < self.swap_colours:
            scene = _swapped(scene, rng)
        if draws[2] < self.confuse_relations and scene.relation is not None:
            others = [relation for relation in RELATIONS if relation != scene.relation]
            scene = replace(scene, relation=others[rng.integers(3)])
        if draws[3] < self.wrong_shape:
            scene = _misshapen(scene, world, rng)
        return scene


def _with(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def _miscounted(scene: Scene, rng: np.random.Generator) -> Scene:
    plural = [index for index, thing in enumerate(scene.things) if thing.count > 1]
    if not plural:
        return scene
    index = plural[rng.integers(len(plural))]
    step = 1 if rng.random() < 0.5 and scene.total < MAX_OBJECTS else -1
    return _with(scene, index, replace(scene.things[index], count=scene.things[index].count + step))


def _swapped(scene: Scene, rng: np.random.Generator) -> Scene:
    pairs = [
        (i, j)
        for j in range(len(scene.things))
        for i in range(j)
        # equal shapes in exchanged colours are the same picture unless a relation tells them apart
        if scene.things[i].colour != scene.things[j].colour
        and (scene.relation is not None or scene.things[i].shape != scene.things[j].shape)
    ]
    if not pairs:
        return scene
    i, j = pairs[rng.integers(len(pairs))]
    things = list(scene.things)
    things[i] = replace(things[i], colour=scene.things[j].colour)
    things[j] = replace(things[j], colour=scene.things[i].colour)
    # a third thing may have that kind already; then the picture stays right rather than undrawable
    return replace(scene, things=tuple(things)) if len({t.kind for t in things}) == len(things) else scene


def _misshapen(scene: Scene, world: World, rng: np.random.Generator) -> Scene:
    taken = {thing.kind for thing in scene.things}
    options = [
        (index, shape)
        for index, thing in enumerate(scene.things)
        for shape in world.shapes
        if (shape, thing.colour) not in taken
    ]
    if not options:
        return scene
    index, shape = options[rng.integers(len(options))]
    return _with(scene, index, replace(scene.things[index], shape=shape))
