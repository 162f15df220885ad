"""Questions an emoji picture must answer with yes to show its prompt: concepts, numbers, relation and background."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evolvedirector.worlds.emoji.grammar import BACKGROUNDS
from evolvedirector.worlds.emoji.judge import background_probabilities
from evolvedirector.worlds.emoji.nouns import NUMBER_WORDS, noun_phrase, plural
from evolvedirector.worlds.emoji.scene import EmojiScene, EmojiThing
from evolvedirector.worlds.emoji_scenes.reading import EmojiSceneReading, SeenEmoji

_MIN_OFFSET = 0.1
"""Least distance along the relation's direction, in shortest image sides."""


@dataclass(frozen=True, slots=True)
class EmojiAtom:
    """One yes-or-no question about a picture, in words and with parts for the reader."""

    kind: Literal["object", "count", "relation", "background"]
    question: str
    things: tuple[EmojiThing, ...] = ()
    """What is asked about; empty asks about everything in the picture."""
    number: int = 0
    relation: str = ""
    background: str = ""


def emoji_atoms(scene: EmojiScene) -> tuple[EmojiAtom, ...]:
    """List the questions of a scene; it is shown faithfully where every answer is yes."""
    words = {1: "one", **NUMBER_WORDS}
    atoms: list[EmojiAtom] = []
    for thing in scene.things:
        atoms.append(EmojiAtom("object", f"Is there {noun_phrase(thing.label)}?", (thing,)))
        question = f"Is the number of {plural(thing.label)} {words[thing.count]}?"
        atoms.append(EmojiAtom("count", question, (thing,), thing.count))
    atoms.append(EmojiAtom("count", f"Is the number of objects {words[scene.total]}?", (), scene.total))
    if scene.relation is not None:
        first, second = (noun_phrase(thing.label) for thing in scene.things)
        question = f"Is {first} {scene.relation} {second}?"
        atoms.append(EmojiAtom("relation", question, scene.things, relation=scene.relation))
    if scene.background is not None:
        question = f"Is the background {scene.background}?"
        atoms.append(EmojiAtom("background", question, background=scene.background))
    return tuple(atoms)


def answer_emoji(atom: EmojiAtom, reading: EmojiSceneReading, labels: tuple[str, ...]) -> float:
    """Answer one question from a reading, as a probability of yes that grows as the picture comes closer.

    Args:
        atom: The question.
        reading: What was seen.
        labels: Names of the concepts in the order of the reading's scores.

    Returns:
        At least 0.5 exactly where the answer is yes.
    """
    match atom.kind:
        case "object":
            label = atom.things[0].label
            best = max((seen.scores[labels.index(label)] for seen in reading.objects), default=0.0)
            return _graded(reading.count(label) > 0, best)
        case "count":
            number = reading.count(atom.things[0].label) if atom.things else len(reading.objects)
            return 1.0 if number == atom.number else 0.5 * math.exp(-abs(number - atom.number))
        case "relation":
            pairs = [
                (first, second)
                for first in reading.objects
                for second in reading.objects
                if (first.label, second.label) == (atom.things[0].label, atom.things[1].label)
            ]
            sure = max((min(a.score, b.score) for a, b in pairs if _lies(a, b, atom.relation)), default=0.0)
            return _graded(True, sure) if sure else 0.0
        case "background":
            colours = np.array([reading.background], dtype=np.float32)
            return float(background_probabilities(colours)[0, list(BACKGROUNDS).index(atom.background)])


def emoji_faithfulness(scene: EmojiScene, reading: EmojiSceneReading, labels: tuple[str, ...]) -> float:
    """Grade how well a picture shows a scene, by the mean over its questions.

    Args:
        scene: What the prompt asks for.
        reading: What was seen.
        labels: Names of the concepts in the order of the reading's scores.

    Returns:
        0 to 1; at least 0.5 exactly where every answer is yes, and there the clearer picture is higher.
    """
    answers = [answer_emoji(atom, reading, labels) for atom in emoji_atoms(scene)]
    mean = sum(answers) / len(answers)
    return 0.499 * mean if min(answers) < 0.5 else 0.5 + 0.5 * mean


def _lies(first: SeenEmoji, second: SeenEmoji, relation: str) -> bool:
    """Tell whether the first object lies in the quarter around the second that the relation names."""
    right, down = first.x - second.x, first.y - second.y
    along = {"left of": -right, "right of": right, "above": -down, "below": down}[relation]
    across = abs(down) if relation in ("left of", "right of") else abs(right)
    return along >= _MIN_OFFSET and along >= across


def _graded(yes: bool, closeness: float) -> float:
    closeness = min(1.0, max(0.0, closeness))
    return 0.5 + 0.5 * closeness if yes else 0.499 * closeness
