"""Questions about a picture, with the answers its reader gives: what the tiny vision-language model is taught.

Half of the yes-or-no questions about whole prompts are near misses: another colour, shape, number or relation, colours
exchanged, one thing more or less. Open questions (how many, which colour, where) teach more per answer than yes or no.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.tiny_vlm_pictures import WORLD, HeldOut, Picture, random_scene, scene_of
from evolvedirector.judges.questions.judge_questions import PAIR_QUESTION
from evolvedirector.records.questions import CHECK_QUESTION
from evolvedirector.worlds.shapes.atoms import Atom, answer, atoms_of, faithfulness, lies, matches
from evolvedirector.worlds.shapes.grammar import NUMBERS, phrase
from evolvedirector.worlds.shapes.reading import UNKNOWN, SeenScene
from evolvedirector.worlds.shapes.scene import MAX_OBJECTS, RELATIONS, Scene, Thing
from evolvedirector.worlds.shapes.shapes import PLURALS

NUMBER_WORDS = {0: "none", 1: "one", **{number: word for word, number in NUMBERS.items()}}
PAIR_STEEPNESS = 12.0
"""As in the exact judge: two faithful pictures that differ a little in sharpness stay near one half."""


@dataclass(frozen=True, slots=True)
class Taught:
    """One question with its answer."""

    text: str
    answer: str
    other: str = ""
    share: float = 1.0
    """Probability of `answer`; the rest belongs to `other`."""
    kind: str = ""


def true_scene(reading: SeenScene, rng: np.random.Generator) -> Scene | None:
    """Say what a picture shows in one of the ways that the grammar has; None where it has none."""
    scene = scene_of(reading)
    if scene is None:
        return None
    order = rng.permutation(len(scene.things))
    things = tuple(scene.things[index] for index in order)
    if len(things) == 2 and scene.total == 2 and rng.random() < 0.6:
        seen = {(o.shape, o.colour): o for o in reading.objects}
        for relation in RELATIONS:
            if lies(seen[things[0].kind], seen[things[1].kind], relation):
                return Scene(things, relation)
    return Scene(things)


def _replaced(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def _variants(scene: Scene, rng: np.random.Generator) -> Iterator[Scene]:
    """Yield a scene with one mistake after another; some may not be valid, and then raise nothing but are left out."""
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    for mistake in rng.permutation(7):
        try:
            match mistake:
                case 0:
                    yield _replaced(scene, index, replace(thing, colour=str(rng.choice(WORLD.colours))))
                case 1:
                    yield _replaced(scene, index, replace(thing, shape=str(rng.choice(WORLD.shapes))))
                case 2 if scene.relation is None:
                    yield _replaced(scene, index, replace(thing, count=thing.count + int(rng.choice((-1, 1)))))
                case 3 if scene.relation is not None:
                    yield replace(scene, relation=str(rng.choice(RELATIONS)))
                case 4 if len(scene.things) > 1:
                    other = (index + 1) % len(scene.things)
                    colours = scene.things[other].colour, thing.colour
                    swapped = _replaced(scene, index, replace(thing, colour=colours[0]))
                    yield _replaced(swapped, other, replace(scene.things[other], colour=colours[1]))
                case 5 if len(scene.things) > 1:
                    yield Scene((*scene.things[:index], *scene.things[index + 1 :]))
                case 6 if scene.relation is None and len(scene.things) < 3:
                    new = Thing(str(rng.choice(WORLD.shapes)), str(rng.choice(WORLD.colours)))
                    yield Scene((*scene.things, new))
        except ValueError:
            continue


def near_miss(scene: Scene, rng: np.random.Generator) -> Scene | None:
    """Change one thing about a scene; None where nothing could be changed within the world."""
    for changed in _variants(scene, rng):
        if changed != scene and WORLD.contains(changed) and changed.total <= MAX_OBJECTS:
            return changed
    return None


class Questioner:
    """Ask about pictures, never naming what is held out.

    Args:
        held_out: what may not be named.
        rng: source of all variation.
    """

    def __init__(self, held_out: HeldOut, rng: np.random.Generator) -> None:
        self.held_out = held_out
        self.rng = rng

    def _prompt(self, reading: SeenScene) -> Scene | None:
        """Choose what to ask for: what is shown, a near miss of it, or rarely anything."""
        draw = self.rng.random()
        scene = true_scene(reading, self.rng)
        if scene is None:
            # Not sayable: name a part of it, as a prompt would that this picture was drawn for.
            kinds = list(
                dict.fromkeys((o.shape, o.colour) for o in reading.objects if UNKNOWN not in (o.shape, o.colour))
            )
            self.rng.shuffle(kinds)
            if kinds and draw < 0.8:
                scene = Scene(tuple(Thing(*kind) for kind in kinds[: self.rng.integers(1, 3)]))
                if len(scene.things) == 2 and self.rng.random() < 0.5:
                    scene = replace(scene, relation=str(self.rng.choice(RELATIONS)))
            else:
                scene = random_scene(self.held_out, self.rng)
        elif draw > 0.97:
            scene = random_scene(self.held_out, self.rng)
        elif draw > 0.47:
            scene = near_miss(scene, self.rng)
        return None if scene is None or self.held_out.holds(scene) else scene

    def check(self, picture: Picture) -> Taught | None:
        """Ask whether a picture shows a prompt; None where this draw has no question."""
        scene = self._prompt(picture.reading)
        if scene is None:
            return None
        text = CHECK_QUESTION.replace("{prompt}", phrase(scene))
        return Taught(text, "yes" if matches(scene, picture.reading) else "no", kind="check")

    def _asked(self, text: str) -> str:
        return f"{text} Answer yes or no." if self.rng.random() < 0.5 else text

    def atom(self, picture: Picture) -> Taught | None:
        """Ask about one object, colour, number or relation."""
        reading = picture.reading
        kind = self.rng.random()
        if kind < 0.2:
            # Any words: parts of near misses hardly ever name a shape that is nowhere.
            scene = Scene((Thing(str(self.rng.choice(WORLD.shapes)), str(self.rng.choice(WORLD.colours))),))
            atom = atoms_of(scene)[self.rng.integers(2)]
        elif kind < 0.5 and len(reading.objects) > 1:
            first, second = (reading.objects[index] for index in self.rng.permutation(len(reading.objects))[:2])
            if UNKNOWN in (first.shape, first.colour, second.shape, second.colour):
                return None
            things = Thing(first.shape, first.colour), Thing(second.shape, second.colour)
            if things[0] == things[1] or reading.count(*things[0].kind) + reading.count(*things[1].kind) > 2:
                return None
            relation = str(self.rng.choice(RELATIONS))
            for named in RELATIONS:
                if self.rng.random() < 0.35 and lies(first, second, named):
                    relation = named
            scene = Scene(things, relation)
            atom = atoms_of(scene)[-1]
        else:
            asked = self._prompt(reading)
            if asked is None:
                return None
            # As many noes as yeses: most parts of a near miss are there.
            atoms = atoms_of(asked)
            wanted = bool(self.rng.random() < 0.5)
            fitting = [atom for atom in atoms if (answer(atom, reading) >= 0.5) == wanted]
            if not fitting:
                return None
            scene, atom = asked, fitting[self.rng.integers(len(fitting))]
        if self.held_out.holds(scene):
            return None
        return Taught(self._asked(atom.question), "yes" if answer(atom, reading) >= 0.5 else "no", kind=atom.kind)

    def open(self, picture: Picture) -> Taught | None:
        """Ask how many, which colour, which shape or where: one word answers."""
        objects = picture.reading.objects
        known = [o for o in objects if UNKNOWN not in (o.shape, o.colour)]
        turn = self.rng.choice(6, p=(0.1, 0.15, 0.12, 0.13, 0.25, 0.25))
        if turn == 0:
            return Taught("How many objects?", NUMBER_WORDS[min(len(objects), 9)], kind="open")
        if turn == 1:
            shape, colour = str(self.rng.choice(WORLD.shapes)), str(self.rng.choice(WORLD.colours))
            if known and self.rng.random() < 0.8:
                one = known[self.rng.integers(len(known))]
                shape, colour = one.shape, one.colour
            number = picture.reading.count(shape, colour)
            return Taught(f"How many {colour} {PLURALS[shape]}?", NUMBER_WORDS[min(number, 9)], kind="open")
        if not known or len(known) != len(objects):
            return None
        one = known[self.rng.integers(len(known))]
        if turn == 2:
            if len({o.colour for o in known if o.shape == one.shape}) > 1:
                return None
            return Taught(f"What colour is the {one.shape}?", one.colour, kind="open")
        if turn == 3:
            if len({o.shape for o in known if o.colour == one.colour}) > 1:
                return None
            return Taught(f"What shape is {one.colour}?", one.shape, kind="open")
        other = known[self.rng.integers(len(known))]
        kinds = [(o.shape, o.colour) for o in known]
        if turn == 5:
            # One to nine, as the keys of a telephone lie: to compare two places, a model must first find one.
            if kinds.count((one.shape, one.colour)) != 1:
                return None
            key = 1 + 3 * min(2, int(one.y * 3)) + min(2, int(one.x * 3))
            return Taught(f"Where is the {one.colour} {one.shape}?", NUMBER_WORDS[key], kind="place")
        if kinds.count((one.shape, one.colour)) != 1 or kinds.count((other.shape, other.colour)) != 1 or one is other:
            return None
        text = f"Where is the {one.colour} {one.shape} from the {other.colour} {other.shape}?"
        where = next((r for r in RELATIONS if lies(one, other, r)), None)
        return None if where is None else Taught(text, where, kind="where")

    def pair(self, first: Picture, second: Picture) -> Taught | None:
        """Ask which of two pictures fits a prompt better, by the exact judge's probability.

        A third of the prompts name one thing alone: which of two pictures has it is learnt before which fits a whole
        scene.
        """
        scene = self._prompt((first if self.rng.random() < 0.5 else second).reading)
        if scene is not None and self.rng.random() < 0.33:
            thing = scene.things[self.rng.integers(len(scene.things))]
            scene = Scene((thing,))
            if self.held_out.holds(scene):
                return None
        if scene is None:
            return None
        margin = faithfulness(scene, first.reading) - faithfulness(scene, second.reading)
        probability = float(1.0 / (1.0 + np.exp(-PAIR_STEEPNESS * margin)))
        return Taught(PAIR_QUESTION.replace("{prompt}", phrase(scene)), "A", "B", probability, kind="pair")


__all__ = ["Atom", "Questioner", "Taught", "near_miss", "true_scene"]
