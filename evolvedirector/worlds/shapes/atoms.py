"""Questions a picture must answer with yes to show its prompt: one per object, colour, count and relation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from evolvedirector.worlds.shapes.grammar import NUMBERS
from evolvedirector.worlds.shapes.reading import SeenObject, SeenScene
from evolvedirector.worlds.shapes.scene import Scene, Thing
from evolvedirector.worlds.shapes.shapes import PLURALS

_WORD_OF = {1: "one", **{number: word for word, number in NUMBERS.items()}}
_MIN_OFFSET = 0.1


@dataclass(frozen=True, slots=True)
class Atom:
    """One yes-or-no question about a picture, in words for a model and with parts for the reader."""

    kind: Literal["object", "colour", "count", "relation"]
    question: str
    things: tuple[Thing, ...]
    """What is asked about; empty asks about everything in the picture."""
    number: int = 0
    relation: str = ""


def atoms_of(scene: Scene) -> tuple[Atom, ...]:
    """List the questions of a scene; it is shown faithfully where every answer is yes.

    Args:
        scene: what the prompt asks for.
    """
    atoms: list[Atom] = []
    for thing in scene.things:
        noun, plural = thing.shape, f"{thing.colour} {PLURALS[thing.shape]}"
        atoms.append(Atom("object", f"Is there a {noun}?", (thing,)))
        atoms.append(Atom("colour", f"Is a {noun} {thing.colour}?", (thing,)))
        atoms.append(Atom("count", f"Is the number of {plural} {_WORD_OF[thing.count]}?", (thing,), thing.count))
    atoms.append(Atom("count", f"Is the number of objects {_WORD_OF[scene.total]}?", (), scene.total))
    if scene.relation is not None:
        first, second = scene.things
        question = f"Is the {first.colour} {first.shape} {scene.relation} the {second.colour} {second.shape}?"
        atoms.append(Atom("relation", question, scene.things, relation=scene.relation))
    return tuple(atoms)


def lies(first: SeenObject, second: SeenObject, relation: str) -> bool:
    """Tell whether the first object lies in the quarter around the second that the relation names."""
    right, down = first.x - second.x, first.y - second.y
    along = {"left of": -right, "right of": right, "above": -down, "below": down}[relation]
    across = abs(down) if relation in ("left of", "right of") else abs(right)
    return along >= _MIN_OFFSET and along >= across


def _likeliest(thing: Thing, reading: SeenScene) -> SeenObject | None:
    return max(reading.objects, key=lambda seen: seen.resembles(thing.shape, thing.colour), default=None)


def answer(atom: Atom, reading: SeenScene) -> float:
    """Answer one question from a reading, as a probability of yes that grows as the picture comes closer.

    Args:
        atom: the question.
        reading: what was seen.

    Returns:
        At least 0.5 exactly where the answer is yes.
    """
    seen = reading.objects
    match atom.kind:
        case "object":
            shape = atom.things[0].shape
            best = max((o.shape_probability.get(shape, 0.0) for o in seen), default=0.0)
            return _graded(any(o.shape == shape for o in seen), best)
        case "colour":
            kind = atom.things[0].kind
            best = max((o.resembles(*kind) for o in seen), default=0.0)
            return _graded(any((o.shape, o.colour) == kind for o in seen), best)
        case "count":
            number = reading.count(*atom.things[0].kind) if atom.things else len(seen)
            return 1.0 if number == atom.number else 0.5 * math.exp(-abs(number - atom.number))
        case "relation":
            first, second = (_likeliest(thing, reading) for thing in atom.things)
            if first is None or second is None or first is second:
                return 0.0
            sure = min(o.resembles(*t.kind) for o, t in zip((first, second), atom.things, strict=True))
            return _graded(lies(first, second, atom.relation), sure) if lies(first, second, atom.relation) else 0.0


def _graded(yes: bool, closeness: float) -> float:
    return 0.5 + 0.5 * closeness if yes else 0.499 * closeness


def matches(scene: Scene, reading: SeenScene) -> bool:
    """Tell whether a picture shows exactly the scene: every question answered with yes."""
    return all(answer(atom, reading) >= 0.5 for atom in atoms_of(scene))


def faithfulness(scene: Scene, reading: SeenScene) -> float:
    """Grade how well a picture shows a scene, by the mean over its questions (Davidsonian scene graph, TIFA).

    Args:
        scene: what the prompt asks for.
        reading: what was seen.

    Returns:
        0 to 1; at least 0.5 exactly where the picture matches, and there the sharper picture is higher.
    """
    answers = [answer(atom, reading) for atom in atoms_of(scene)]
    mean = sum(answers) / len(answers)
    if min(answers) < 0.5:
        return 0.499 * mean
    return 0.5 + 0.5 * mean * (0.6 + 0.4 * reading.sharpness)
