"""The space of composed scenes over a vocabulary: its skills, all their scenes, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.records import UNLABELLED, digest, seed_of
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS
from evolvedirector.worlds.emoji.scene import EmojiScene, EmojiThing
from evolvedirector.worlds.emoji.vocabulary import EmojiVocabulary
from evolvedirector.worlds.shapes.scene import MAX_OBJECTS, RELATIONS

EMOJI_SKILLS = ("single_object", "two_objects", "counting", "background", "position")
_PAIR_SKILLS = ("two_objects", "position")
_LISTED = 200_000
"""Scenes of a skill up to which their order is a permutation; of more, they are drawn one by one."""


class EmojiWorld:
    """Number the scenes of every skill, so that millions of them can be drawn from without listing them.

    Held out is by whole combinations: the set of concepts a scene names (with the background for `background`), in
    whatever order, number or relation. A pair is held out of `two_objects` and of `position` alike, since a tidy
    drawing of the one may be a drawing of the other. What is measured on them is putting known words together in a
    new way.
    """

    def __init__(
        self,
        vocabulary: EmojiVocabulary | None = None,
        max_count: int = 4,
        held_out_share: float = 0.2,
        skills: list[str] | None = None,
    ) -> None:
        """Choose vocabulary, numbers and what is held out.

        Args:
            vocabulary: The concepts. None: the default two dozen.
            max_count: Largest number of equal objects, 2 to 9.
            held_out_share: Expected share of each skill's combinations that is held out, 0 to 0.5; 0 holds out none.
            skills: Some of single_object, two_objects, counting, background and position. None: all of them.

        Raises:
            UserError: A number is out of range, a skill unknown, or there are fewer than two concepts.
            AssetError: The assets are missing.
        """
        if not 2 <= max_count <= MAX_OBJECTS:
            raise UserError(f"max_count is {max_count}. Allowed are 2 to {MAX_OBJECTS}. Write 4.")
        if not 0.0 <= held_out_share <= 0.5:
            raise UserError(f"held_out_share is {held_out_share}. Allowed are 0 to 0.5. Write 0.2.")
        unknown = [skill for skill in skills or () if skill not in EMOJI_SKILLS]
        if unknown or skills == []:
            raise UserError(f"skills is {skills}. Allowed are {', '.join(EMOJI_SKILLS)}. Write null for all.")
        self.vocabulary = vocabulary or EmojiVocabulary()
        self.labels = tuple(concept.label for concept in self.vocabulary.concepts)
        if len(self.labels) < 2:
            raise UserError("A world of one concept. Allowed are two or more. Add a concept to the vocabulary.")
        self.max_count = max_count
        self.held_out_share = held_out_share
        self.skills = tuple(skill for skill in EMOJI_SKILLS if skills is None or skill in skills)
        kept_back = max(1, round(held_out_share * len(self.labels))) if held_out_share else 0
        self._held_out = {  # so few that a lot per combination might hold out none
            skill: frozenset(_keyed_order(self.labels, skill)[:kept_back]) for skill in ("single_object", "counting")
        }

    def size(self, skill: str) -> int:
        """Count the scenes of a skill, held out or not."""
        n = len(self.labels)
        sizes = (n, n * (n - 1), n * (self.max_count - 1), n * len(BACKGROUNDS), n * (n - 1) * len(RELATIONS))
        return dict(zip(EMOJI_SKILLS, sizes, strict=True))[skill]

    def scene(self, skill: str, number: int) -> EmojiScene:
        """Return one scene of a skill by its number, 0 to `size(skill)` - 1."""
        rest, first = divmod(number, len(self.labels))
        label = self.labels[first]
        if skill == "single_object":
            return EmojiScene.single(label)
        if skill == "counting":
            return EmojiScene((EmojiThing(label, rest + 2),))
        if skill == "background":
            return EmojiScene.single(label, list(BACKGROUNDS)[rest])
        relation, second = divmod(rest, len(self.labels) - 1)
        pair = (EmojiThing(label), EmojiThing(self.labels[second + (second >= first)]))  # never itself
        return EmojiScene(pair, RELATIONS[relation] if skill == "position" else None)

    def skill_of(self, scene: EmojiScene) -> str:
        """Name the one skill that a scene exercises; `unlabelled` for a scene that no skill asks for."""
        if scene.relation is not None:
            return "position" if scene.background is None else UNLABELLED
        if scene.background is not None:
            return "background" if scene.total == 1 else UNLABELLED
        if len(scene.things) == 1:
            return "single_object" if scene.total == 1 else "counting"
        return "two_objects" if scene.total == 2 else UNLABELLED

    def is_held_out(self, scene: EmojiScene) -> bool:
        """Tell whether a scene belongs to a combination of its skill that no training prompt may use."""
        skill = self.skill_of(scene)
        if skill in self._held_out:
            return scene.label in self._held_out[skill]
        labels = sorted({thing.label for thing in scene.things})
        combination = "pair" if skill in _PAIR_SKILLS else skill
        name = digest("held out", combination, scene.background or "", *labels, length=8)
        return int(name, 16) < self.held_out_share * 16**8

    def shuffled(self, skill: str, seed: int, held_out: bool = False) -> Iterator[EmojiScene]:
        """Draw the scenes of a skill in an order named by the seed, none twice.

        Args:
            skill: One of the world's skills.
            seed: Same seed, same order.
            held_out: Only the held-out ones; else only the others.
        """
        draw = np.random.default_rng(seed_of("emoji scenes", skill, seed))
        for number in _without_repetition(self.size(skill), draw):
            scene = self.scene(skill, number)
            if self.is_held_out(scene) == held_out:
                yield scene

    def near(self, scene: EmojiScene, seed: int) -> Iterator[EmojiScene]:
        """Draw scenes of the same skill that share a concept with a scene, without held-out ones and itself.

        Args:
            scene: A scene of one of the skills; one of a single object has no such neighbours.
            seed: Same seed, same order.
        """
        skill = self.skill_of(scene)
        things = scene.things
        found: list[EmojiScene] = []
        if skill == "counting":
            found = [EmojiScene((EmojiThing(scene.label, n),)) for n in range(2, self.max_count + 1)]
        elif skill == "background":
            found = [EmojiScene.single(scene.label, name) for name in BACKGROUNDS]
        elif skill in _PAIR_SKILLS:
            others = [EmojiThing(label) for label in self.labels if label not in scene.objects]
            found = [replace(scene, things=(things[0], other)) for other in others]
            found += [replace(scene, things=(other, things[1])) for other in others]
        order = np.random.default_rng(seed_of("emoji near", seed)).permutation(len(found))
        yield from (found[i] for i in order if found[i] != scene and not self.is_held_out(found[i]))

    def __repr__(self) -> str:
        """Name everything that decides which scenes there are."""
        numbers = f"max_count={self.max_count}, held_out_share={self.held_out_share}, skills={self.skills}"
        return f"EmojiWorld({self.vocabulary.fingerprint}, {numbers})"


def _keyed_order(labels: tuple[str, ...], skill: str) -> list[str]:
    return sorted(labels, key=lambda label: digest("held out", skill, label))


def _without_repetition(size: int, draw: np.random.Generator) -> Iterator[int]:
    if size <= _LISTED:
        yield from (int(number) for number in draw.permutation(size))
        return
    seen: set[int] = set()
    while len(seen) < size:
        number = int(draw.integers(size))
        if number not in seen:
            seen.add(number)
            yield number
