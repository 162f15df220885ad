"""The vocabulary of the emoji world: which concepts a run knows, and which of its prompts are held out."""

from __future__ import annotations

import difflib

from evolvedirector.assets.cache import cache_folder
from evolvedirector.errors import UserError
from evolvedirector.records import digest
from evolvedirector.worlds.emoji.concept import EmojiConcept
from evolvedirector.worlds.emoji.grammar import BACKGROUNDS, PHRASINGS, EmojiGrammar, scene_text
from evolvedirector.worlds.emoji.join import join_concepts, package_folders
from evolvedirector.worlds.emoji.scene import EmojiScene

# Everyday things that look unlike each other at 32 px; one per skill in turn, so that any first n is balanced.
EVERYDAY = (
    *("fox", "pizza", "rocket", "crown", "penguin", "banana", "sailboat", "guitar"),
    *("frog", "strawberry", "bicycle", "key", "octopus", "doughnut", "tractor", "bell"),
    *("butterfly", "carrot", "helicopter", "candle", "panda", "watermelon", "ambulance", "camera"),
    *("turtle", "broccoli", "airplane", "umbrella", "crab", "hamburger", "locomotive", "hammer"),
    *("lion", "avocado", "taxi", "scissors", "owl", "pineapple", "bus", "balloon"),
    *("elephant", "eggplant", "anchor", "drum", "snail", "lemon", "speedboat", "trophy"),
)
_EVERYDAY_SKILLS = ("animals", "plants", "food", "vehicles", "objects", "activities")


class EmojiVocabulary:
    """Hold the concepts of a run, all of them drawn by every style, with the prompts made from them."""

    def __init__(
        self,
        folder: str | None = None,
        concepts: int | list[str] | None = 24,
        held_out_backgrounds: int = 1,
        phrasings: int = 1,
        groups: list[str] | None = None,
    ) -> None:
        """Choose concepts and the share of prompts held out.

        Args:
            folder: Cache folder that `evolvedirector assets emoji` filled. None: the user's own.
            concepts: How many everyday concepts (the same ones every time), or their labels. None: all there are,
                1,570 with the packages that `evolvedirector assets emoji` obtains.
            held_out_backgrounds: On how many of the eight named backgrounds each concept is never trained (0 to 7).
            phrasings: How many wordings of a scene are written (1 to 3); all are understood.
            groups: Choose among these only: animals, plants, food, vehicles, places, activities, objects, people,
                smileys, symbols, flags. None: all groups.

        Raises:
            AssetError: The assets are missing or damaged.
            UserError: A label is unknown, or a number is out of range.
        """
        if not 0 <= held_out_backgrounds < len(BACKGROUNDS):
            raise UserError(
                f"held_out_backgrounds is {held_out_backgrounds}. Allowed are 0 to {len(BACKGROUNDS) - 1}, so that "
                "each concept keeps a background to train on. Write 1."
            )
        if not 1 <= phrasings <= len(PHRASINGS):
            raise UserError(f"phrasings is {phrasings}. Allowed are 1 to {len(PHRASINGS)}. Write 1.")
        self.root = cache_folder(folder) / "emoji"
        known = _in_groups(join_concepts(self.root), groups)
        chosen = _by_label(known, concepts) if isinstance(concepts, list) else _everyday(known, concepts)
        self.concepts: tuple[EmojiConcept, ...] = chosen
        self._by_label = {concept.label.lower(): concept for concept in chosen}
        self._grammar = EmojiGrammar([concept.label for concept in chosen])
        self._phrasings = phrasings
        self._held_out = {
            concept.label: frozenset(_keyed_order(concept.label)[:held_out_backgrounds]) for concept in chosen
        }

    def __getitem__(self, label: str) -> EmojiConcept:
        """Return the concept of a label in any case."""
        return self._by_label[label.lower()]

    def parse(self, text: str) -> EmojiScene | None:
        """Read a prompt; None where it asks for anything else than this vocabulary."""
        return self._grammar.parse(text)

    def require(self, text: str) -> EmojiScene:
        """Read a prompt.

        Raises:
            UserError: It is outside of this vocabulary; the message names the nearest concepts.
        """
        scene = self._grammar.parse(text)
        if scene is None:
            raise UserError(self._grammar.explain(text))
        return scene

    def skill_of(self, scene: EmojiScene) -> str:
        """Name the skill that a scene exercises: the everyday group of its concept."""
        return self[scene.label].skill

    def is_held_out(self, scene: EmojiScene) -> bool:
        """Tell whether this combination of concept and background is kept for evaluation."""
        return scene.background in self._held_out[self[scene.label].label]

    def scenes(self, held_out: bool) -> list[EmojiScene]:
        """List every scene of one object that is held out, or every one that may be trained on, by concept."""
        return [
            scene
            for concept in self.concepts
            for scene in (EmojiScene.single(concept.label, background) for background in (None, *BACKGROUNDS))
            if self.is_held_out(scene) == held_out
        ]

    def texts(self, scene: EmojiScene) -> list[str]:
        """Print a scene in each wording in use."""
        return [scene_text(scene, phrasing) for phrasing in range(self._phrasings)]

    @property
    def fingerprint(self) -> str:
        """Name the concepts and the artwork they are drawn with."""
        packages = (folder.name for folder in package_folders(self.root).values())  # with their versions
        return digest(*packages, *(part for concept in self.concepts for part in (concept.label, concept.hexcode)))


def _in_groups(known: tuple[EmojiConcept, ...], groups: list[str] | None) -> tuple[EmojiConcept, ...]:
    if groups is None:
        return known
    names = sorted({concept.skill for concept in known})
    unknown = [group for group in groups if group not in names]
    if unknown or not groups:
        raise UserError(f"groups is {groups}. Allowed are {', '.join(names)}. Write some of them, or null for all.")
    return tuple(concept for concept in known if concept.skill in groups)


def _everyday(known: tuple[EmojiConcept, ...], wanted: int | None) -> tuple[EmojiConcept, ...]:
    count = len(known) if wanted is None else wanted
    by_label = {concept.label: concept for concept in known}
    first = [by_label[label] for label in EVERYDAY if label in by_label]
    taken = {concept.label for concept in first}
    simple = [c for c in known if c.label.isalpha() and c.skill in _EVERYDAY_SKILLS and c.label not in taken]
    rest = [c for c in known if c.label not in taken and c not in simple]
    if not 1 <= count <= len(known):
        raise UserError(f"concepts is {count}. Allowed are 1 to {len(known)}, or a list of labels. Write 24.")
    return tuple([*first, *simple, *rest][:count])


def _by_label(known: tuple[EmojiConcept, ...], labels: list[str]) -> tuple[EmojiConcept, ...]:
    by_label = {concept.label.lower(): concept for concept in known}
    chosen = {}
    for label in labels:
        if label.lower() not in by_label:
            near = difflib.get_close_matches(label.lower(), by_label, n=3, cutoff=0.0)
            raise UserError(
                f"{label!r} is no concept that every emoji style draws. Allowed are {len(known)} labels of the emoji "
                f"standard. Nearest: {', '.join(repr(by_label[name].label) for name in near)}."
            )
        chosen[label.lower()] = by_label[label.lower()]
    if not chosen:
        raise UserError("concepts is an empty list. Allowed are labels or a number. Write 24.")
    return tuple(chosen.values())


def _keyed_order(label: str) -> list[str]:
    return sorted(BACKGROUNDS, key=lambda background: digest("held out", label, background))
