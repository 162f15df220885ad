"""The words of the joint world, and which of its kinds are withheld from a prior's training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from evolvedirector.records import seed_of
from evolvedirector.worlds.shapes.grammar import scenes
from evolvedirector.worlds.shapes.scene import Scene
from evolvedirector.worlds.shapes.world import World

Split = Literal["train", "validation", "test"]

JOINT_WORLD = World(
    shapes=("circle", "square", "triangle", "cross"),
    colours=("red", "green", "blue", "yellow", "purple", "cyan"),
)
"""24 kinds: 4 shapes in 6 colours."""


def _diagonal(first: int) -> frozenset[tuple[str, str]]:
    """One kind per shape, all in different colours: every shape and every colour stays known from other kinds."""
    colours = JOINT_WORLD.colours
    return frozenset(
        (shape, colours[(first + number) % len(colours)]) for number, shape in enumerate(JOINT_WORLD.shapes)
    )


WITHHELD: dict[Split, frozenset[tuple[str, str]]] = {"validation": _diagonal(0), "test": _diagonal(3)}
"""Split to its own kinds (shape, colour), across all skills, as in ECLIPSE's figure 2: no prior trains on them."""


def split_of(scene: Scene) -> Split | None:
    """Name the only split a scene may be used in; None for one that mixes validation's and test's kinds.

    Args:
        scene: any scene of the world.
    """
    kinds = {thing.kind for thing in scene.things}
    found: list[Split] = [split for split, withheld in WITHHELD.items() if kinds & withheld]
    return None if len(found) > 1 else found[0] if found else "train"


def scenes_of(split: Split, skill: str) -> Iterator[Scene]:
    """Yield a skill's scenes of one split, always in the same order.

    Args:
        split: `train`, `validation` or `test`.
        skill: one of the world's skills.
    """
    return (scene for scene in scenes(JOINT_WORLD, skill) if split_of(scene) == split)


def drawn_scenes(split: Split | None, count: int, seed: int) -> list[tuple[Scene, int]]:
    """Draw scenes, in turn from each skill, with the seed of each one's picture.

    Args:
        split: Whose scenes; None: those of all splits, and those that mix their kinds.
        count: How many.
        seed: Which ones.
    """
    rng = np.random.default_rng(seed_of("joint scenes", split or "all", seed))
    every = [
        list(scenes(JOINT_WORLD, skill) if split is None else scenes_of(split, skill)) for skill in JOINT_WORLD.skills
    ]
    found = []
    for number in range(count):
        choices = every[number % len(every)]
        found.append((choices[int(rng.integers(len(choices)))], seed_of("joint picture", seed, number)))
    return found
