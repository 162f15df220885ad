"""What a teacher of the miniature world gets wrong, so that choosing among teachers matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from evolvedirector.errors import UserError
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
        check_probabilities(asdict(self))

    def distort(self, scene: Scene, world: World, rng: np.random.Generator) -> Scene:
        """Return the scene that is drawn instead of the one asked for.

        Args:
            scene: what was asked for.
            world: where other shapes come from.
            rng: source of the draws; always the same number of them, so that weaknesses do not disturb each other.
        """
        draws = rng.random(4)
        if draws[0] < self.miscount and (slip := miscount([thing.count for thing in scene.things], rng)):
            index, count = slip
            scene = _with(scene, index, replace(scene.things[index], count=count))
        if draws[1] < self.swap_colours:
            scene = _swapped(scene, rng)
        if draws[2] < self.confuse_relations and scene.relation is not None:
            scene = replace(scene, relation=other_relation(scene.relation, rng))
        if draws[3] < self.wrong_shape:
            scene = _misshapen(scene, world, rng)
        return scene


def check_probabilities(values: Mapping[str, float]) -> None:
    """Refuse what is no probability.

    Args:
        values: Settings by name.

    Raises:
        UserError: One is outside of 0 to 1.
    """
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{name}={value}. Allowed is a probability from 0 to 1. Write 0 for never.")


def miscount(counts: Sequence[int], rng: np.random.Generator) -> tuple[int, int] | None:
    """Draw which of some numbers is drawn wrong, and as what; None where every thing comes alone.

    Args:
        counts: How many of each thing a scene asks for.
        rng: Source of the draws.

    Returns:
        The index of a number over 1 and the wrong number: one more (if there is room for it) or one less.
    """
    plural = [index for index, count in enumerate(counts) if count > 1]
    if not plural:
        return None
    index = plural[rng.integers(len(plural))]
    step = 1 if rng.random() < 0.5 and sum(counts) < MAX_OBJECTS else -1
    return index, counts[index] + step


def other_relation(relation: str, rng: np.random.Generator) -> str:
    """Draw another of the four relations.

    Args:
        relation: The one asked for.
        rng: Source of the draw.
    """
    others = [other for other in RELATIONS if other != relation]
    return others[rng.integers(len(others))]


def _with(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


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
