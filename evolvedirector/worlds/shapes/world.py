"""Which words a miniature world knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from evolvedirector.errors import UserError
from evolvedirector.worlds.shapes.palette import COLOURS
from evolvedirector.worlds.shapes.scene import MAX_OBJECTS, Scene
from evolvedirector.worlds.shapes.shapes import PLURALS

SKILLS = ("single_object", "two_objects", "counting", "colours", "position", "colour_binding")


def _refuse_words(field: str, words: Iterable[str], known: Iterable[str]) -> None:
    words, known = tuple(words), tuple(known)
    if not words or len(set(words)) != len(words):
        raise UserError(f"{field}={list(words)} is empty or repeats a word. Allowed are distinct words of {known}.")
    for word in words:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]
            raise UserError(f"{field} names {word!r}. Allowed are {', '.join(known)}. Write {near!r} perhaps.")


@dataclass(frozen=True)
class World:
    """Say which shapes, colours and skills a miniature world has.

    The skills carry GenEval's names (Ghosh et al. 2023); what each asks of a trainer:

    - `single_object`: "a red circle". One thing in its colour.
    - `two_objects`: "a red circle and a blue square". Two *different shapes*, each in its colour (which may agree).
    - `counting`: "three green stars". Two to `max_count` equal things.
    - `colours`: "a red star and a blue star". The *same shape twice*: only the colours tell the two apart.
    - `position`: "a red circle left of a blue square". Two different things and one of four relations.
    - `colour_binding`: "a red circle, a blue square and a green star". Three different shapes in three different
      colours: a student that knows which words occur, but not which belong together, is right once in six.

    No scene belongs to two skills, so the skill of a prompt follows from its text.

    Args:
        shapes: words out of `PLURALS`; `colour_binding` needs three, `two_objects` two.
        colours: words out of `COLOURS`; `colour_binding` needs three, `colours` two.
        skills: which of the six skills prompts are written for.
        max_count: largest number of equal objects, 2 to 9; above 4 use images larger than 32 px.

    Raises:
        UserError: unknown or repeated words, or too few for one of the skills.
    """

    shapes: tuple[str, ...] = ("circle", "square", "triangle")
    colours: tuple[str, ...] = ("red", "green", "blue", "yellow")
    skills: tuple[str, ...] = SKILLS
    max_count: int = 4

    def __post_init__(self) -> None:
        """Check the words, and freeze the lists that a YAML gives."""
        for field, known in (("shapes", PLURALS), ("colours", COLOURS), ("skills", SKILLS)):
            words = tuple(getattr(self, field))
            _refuse_words(field, words, known)
            object.__setattr__(self, field, words)
        if not 2 <= self.max_count <= MAX_OBJECTS:
            raise UserError(f"max_count={self.max_count}. Allowed is 2 to {MAX_OBJECTS}. Write 4 for 32 px images.")
        needs = {"two_objects": (2, 1), "colours": (1, 2), "colour_binding": (3, 3)}
        for skill in self.skills:
            shapes, colours = needs.get(skill, (1, 1))
            if len(self.shapes) < shapes or len(self.colours) < colours:
                raise UserError(
                    f"{skill} with {len(self.shapes)} shapes and {len(self.colours)} colours has no scene. It needs "
                    f"{shapes} shapes and {colours} colours. Add words, or leave {skill} out of skills."
                )
        if "position" in self.skills and len(self.shapes) * len(self.colours) < 2:
            raise UserError("position with one shape and one colour has no scene. Add a shape or a colour.")

    def contains(self, scene: Scene) -> bool:
        """Tell whether every word of a scene belongs to this world."""
        return all(
            thing.shape in self.shapes and thing.colour in self.colours and thing.count <= self.max_count
            for thing in scene.things
        )
