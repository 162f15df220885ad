"""The language of the miniature world: text to scene, scene to text, and all scenes of a skill."""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records import UNLABELLED, seed_of
from evolvedirector.worlds.shapes.palette import COLOURS
from evolvedirector.worlds.shapes.scene import RELATIONS, Scene, Thing
from evolvedirector.worlds.shapes.shapes import PLURALS
from evolvedirector.worlds.shapes.world import World

NUMBERS = MappingProxyType({"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9})
_WORD_OF = {number: word for word, number in NUMBERS.items()}
_SINGULAR = {plural: shape for shape, plural in PLURALS.items()}
_RELATION = re.compile(rf" (?:to the )?({'|'.join(RELATIONS)}) ")
_JOINT = re.compile(r",? and |, ")
_EXAMPLES = "'a red circle', 'three green stars' or 'a red circle left of a blue square'"


def _thing(words: str) -> Thing:
    parts = words.split()
    if len(parts) == 3:
        number, colour, noun = parts
        if colour in COLOURS:
            if number in ("a", "an", "the", "one") and noun in PLURALS:
                return Thing(noun, colour)
            if number in NUMBERS and noun in _SINGULAR:
                return Thing(_SINGULAR[noun], colour, NUMBERS[number])
    raise UserError(
        f"{words!r} is outside of the grammar. Allowed is an article or number up to nine, a colour "
        f"({', '.join(COLOURS)}) and a shape ({', '.join(PLURALS)}). Write {_EXAMPLES}."
    )


def parse(text: str) -> Scene:
    """Read a prompt as a scene; case, spaces and a final stop do not matter.

    Args:
        text: for example "a red circle", "three green stars", "a red circle left of a blue square" or
            "a red circle, a blue square and a green star".

    Raises:
        UserError: the text is outside of the grammar.
    """
    folded = " ".join(text.casefold().split()).rstrip(".")
    pieces = _RELATION.split(folded)
    if len(pieces) == 3:
        return Scene((_thing(pieces[0]), _thing(pieces[2])), pieces[1])
    if len(pieces) != 1:
        raise UserError(f"{text[:200]!r} names several relations. Allowed is one. Write {_EXAMPLES}.")
    return Scene(tuple(_thing(part) for part in _JOINT.split(folded)))


def _words(thing: Thing) -> str:
    if thing.count > 1:
        return f"{_WORD_OF[thing.count]} {thing.colour} {PLURALS[thing.shape]}"
    return f"{'an' if thing.colour[0] in 'aeiou' else 'a'} {thing.colour} {thing.shape}"


def phrase(scene: Scene) -> str:
    """Write a scene as its prompt; `parse` gives the scene back."""
    words = [_words(thing) for thing in scene.things]
    if scene.relation is not None:
        return f"{words[0]} {scene.relation} {words[1]}"
    return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), words[-1]])


def skill_of(scene: Scene) -> str:
    """Name the one skill a scene exercises; `unlabelled` for a scene that no skill asks for."""
    shapes = len({thing.shape for thing in scene.things})
    colours = len({thing.colour for thing in scene.things})
    if scene.relation is not None:
        return "position"
    match len(scene.things), scene.total:
        case 1, 1:
            return "single_object"
        case 1, _:
            return "counting"
        case 2, 2:
            return "two_objects" if shapes == 2 else "colours"
        case 3, 3 if shapes == 3 and colours == 3:
            return "colour_binding"
        case _:
            return UNLABELLED


@lru_cache(maxsize=64)
def scenes(world: World, skill: str) -> tuple[Scene, ...]:
    """List every scene of a skill in a world, always in the same order.

    Args:
        world: the words.
        skill: one of `SKILLS`.

    Raises:
        UserError: an unknown skill.
    """
    kinds = [Thing(shape, colour) for shape in world.shapes for colour in world.colours]
    pairs = list(itertools.permutations(kinds, 2))
    match skill:
        case "single_object":
            return tuple(Scene((kind,)) for kind in kinds)
        case "two_objects":
            return tuple(Scene(pair) for pair in pairs if pair[0].shape != pair[1].shape)
        case "counting":
            counts = range(2, world.max_count + 1)
            return tuple(Scene((Thing(kind.shape, kind.colour, n),)) for kind in kinds for n in counts)
        case "colours":
            return tuple(Scene(pair) for pair in pairs if pair[0].shape == pair[1].shape)
        case "position":
            return tuple(Scene(pair, relation) for pair in pairs for relation in RELATIONS)
        case "colour_binding":
            shapes = itertools.permutations(world.shapes, 3)
            colours = list(itertools.permutations(world.colours, 3))
            return tuple(
                Scene(tuple(Thing(shape, colour) for shape, colour in zip(s, c, strict=True)))
                for s in shapes
                for c in colours
            )
        case _:
            raise UserError(f"Unknown skill {skill!r}. Allowed are {', '.join(world.skills)}. Write one of them.")


def shuffled(world: World, skill: str, seed: int) -> list[Scene]:
    """List every scene of a skill in an order drawn by seed; a prefix is a sample without repetition.

    Args:
        world: the words.
        skill: one of `SKILLS`.
        seed: same seed, same order.
    """
    every = scenes(world, skill)
    order = np.random.default_rng(seed_of("scenes", skill, seed)).permutation(len(every))
    return [every[index] for index in order]
