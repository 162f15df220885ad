"""The prompts of the emoji world: "a fox left of a pizza on a light blue background", printed and parsed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator

from evolvedirector.worlds.emoji.nouns import NUMBER_WORDS, noun_phrase, plural, singular
from evolvedirector.worlds.emoji.scene import MAX_THINGS, EmojiScene, EmojiThing
from evolvedirector.worlds.shapes.scene import RELATIONS

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (252, 252, 252),
    "light blue": (165, 210, 250),
    "light green": (175, 232, 175),
    "light yellow": (255, 246, 140),
    "light pink": (255, 182, 205),
    "light gray": (200, 200, 200),
    "light purple": (205, 178, 245),
    "light orange": (255, 200, 140),
}
"""Names and sRGB colours; each is pale, and at least 45 levels away from every other."""

PHRASINGS = ("{}", "a picture of {}", "a drawing of {}")
MAX_PARSED_CHARACTERS = 300
_COLOURS = "|".join(name.removeprefix("light ") for name in BACKGROUNDS)
_BACKGROUND = re.compile(rf"\s+on (?:an? )?(?:light )?({_COLOURS}|grey) background$")
_ARTICLE = re.compile(r"^(?:an?|the|one) ")
_RELATION = re.compile(rf" (?:to the )?({'|'.join(RELATIONS)}) ")
_JOINT = re.compile(r",? and |, ")
_NUMBERS = {word: number for number, word in NUMBER_WORDS.items()}
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"'})
_EXAMPLES = "'a fox', 'two foxes', 'a fox and a pizza' or 'a fox left of a pizza on a white background'"


def scene_text(scene: EmojiScene, phrasing: int = 0) -> str:
    """Print a scene as a prompt; `phrasing` is an index into `PHRASINGS`."""
    words = [noun_phrase(thing.label, thing.count) for thing in scene.things]
    if scene.relation is not None:
        listed = f"{words[0]} {scene.relation} {words[1]}"
    else:
        listed = " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), words[-1]])
    text = PHRASINGS[phrasing].format(listed)
    return text if scene.background is None else f"{text} on a {scene.background} background"


class EmojiGrammar:
    """Read prompts about the concepts of a vocabulary, in any case, article and phrasing.

    Names of concepts hold "and", "with" and number words themselves ("skull and crossbones", "four leaf clover"), so
    that a text is split only where both sides are names that are known.
    """

    def __init__(self, labels: Collection[str]) -> None:
        """Learn the names.

        Args:
            labels: What can be named, as the emoji standard writes it.
        """
        self._singular: dict[str, str] = {}
        self._plural: dict[str, str] = {}
        for label in labels:  # the name itself is understood too: "scissors"
            self._singular.setdefault(_folded(label), label)
        for label in labels:
            self._singular[_folded(singular(label))] = label
            self._plural[_folded(plural(label))] = label

    def parse(self, text: str) -> EmojiScene | None:
        """Read a prompt as a scene; None where it asks for anything else."""
        if len(text) > MAX_PARSED_CHARACTERS:
            return None
        rest, background = _background(_folded(text))
        for start in _starts(rest):
            for things, relation in self._readings(rest[start:]):
                try:
                    return EmojiScene(things, relation, background)
                except ValueError:  # "a fox and a fox": another split may do
                    continue
        return None

    def explain(self, text: str) -> str:
        """Say why a prompt is not understood, with the nearest names that are."""
        if len(text) > MAX_PARSED_CHARACTERS:
            return f"A prompt of {len(text)} characters. Allowed are {MAX_PARSED_CHARACTERS}. Write {_EXAMPLES}."
        rest, _ = _background(_folded(text))
        known = {**self._plural, **self._singular}
        parts = [part for piece in _RELATION.split(rest)[::2] for part in _JOINT.split(piece)]
        unknown = [part for part in parts if self._thing(part) is None] or [rest]
        nearest = [
            name
            for part in unknown[:MAX_THINGS]
            for name in difflib.get_close_matches(_bare(part), known, n=2, cutoff=0.5)
        ]
        near = ", ".join(repr(label) for label in dict.fromkeys(known[name] for name in nearest))
        return (
            f"{unknown[0][:80]!r} is outside of this vocabulary of {len(set(self._singular.values()))} concepts. "
            f"{f'Nearest: {near}. ' if near else ''}Allowed are up to {MAX_THINGS} concepts in numbers up to nine. "
            f"Write {_EXAMPLES}."
        )

    def _readings(self, text: str) -> Iterator[tuple[tuple[EmojiThing, ...], str | None]]:
        for match in _RELATION.finditer(text):
            first, second = self._thing(text[: match.start()]), self._thing(text[match.end() :])
            if first is not None and second is not None:
                yield (first, second), match[1]
        yield from ((things, None) for things in self._lists(text, MAX_THINGS))

    def _lists(self, text: str, most: int) -> Iterator[tuple[EmojiThing, ...]]:
        whole = self._thing(text)
        if whole is not None:
            yield (whole,)
        if most > 1:
            for match in reversed(list(_JOINT.finditer(text))):  # the longest name first: "a hammer and pick"
                first = self._thing(text[: match.start()])
                if first is not None:
                    yield from ((first, *rest) for rest in self._lists(text[match.end() :], most - 1))

    def _thing(self, words: str) -> EmojiThing | None:
        number, _, name = words.partition(" ")
        if number in _NUMBERS and name in self._plural:
            return EmojiThing(self._plural[name], _NUMBERS[number])
        label = self._singular.get(_ARTICLE.sub("", words)) or self._singular.get(words)
        return None if label is None else EmojiThing(label)


def _folded(text: str) -> str:
    return " ".join(text.translate(_QUOTES).lower().split()).strip(" .")


def _background(text: str) -> tuple[str, str | None]:
    match = _BACKGROUND.search(text)
    if match is None:
        return text, None
    colour = "gray" if match[1] == "grey" else match[1]
    return text[: match.start()], colour if colour in BACKGROUNDS else f"light {colour}"


def _starts(text: str) -> list[int]:
    """List where the things may begin: after "a picture of", or at once if a concept is called so."""
    match = re.match(r"(?:an? |the )?(?:picture|drawing) of ", text)
    return [0] if match is None else [match.end(), 0]


def _bare(words: str) -> str:
    rest = _ARTICLE.sub("", words)
    number, _, name = rest.partition(" ")
    return name if number in _NUMBERS else rest
