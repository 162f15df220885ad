"""The prompts of the emoji world: "a fox on a light blue background", printed and parsed."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

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
_BACKGROUND = re.compile(rf"\s+on (?:an? )?({'|'.join(BACKGROUNDS)}) background$")
_ARTICLE = re.compile(r"^(?:an?|the) ")
_SOUNDS_LIKE_YOU = ("uni", "uku", "use", "eu", "one")
_SILENT_H = ("hour", "honest", "heir")
_SINGULAR_ENDINGS = ("ss", "us", "is", "ous", "canvas", "lens", "atlas", "gas")


@dataclass(frozen=True, slots=True)
class EmojiScene:
    """What a prompt asks for: one concept, and a background where it names one."""

    label: str
    background: str | None = None


def noun_phrase(label: str) -> str:
    """Put the indefinite article before a label, or none before a plural."""
    last = label.rsplit(" ", 1)[-1].lower()
    if last.endswith("s") and not last.endswith(_SINGULAR_ENDINGS):
        return label
    first = label.lower()
    vowel = (first[0] in "aeiou" and not first.startswith(_SOUNDS_LIKE_YOU)) or first.startswith(_SILENT_H)
    return f"{'an' if vowel else 'a'} {label}"


def scene_text(scene: EmojiScene, phrasing: int = 0) -> str:
    """Print a scene as a prompt; `phrasing` is an index into `PHRASINGS`."""
    text = PHRASINGS[phrasing].format(noun_phrase(scene.label))
    return text if scene.background is None else f"{text} on a {scene.background} background"


def parse_scene(text: str, labels: Collection[str]) -> EmojiScene | None:
    """Read a prompt back: any case, article and phrasing; None where it asks for nothing in `labels`.

    Args:
        text: The prompt.
        labels: Labels in lower case that are understood.
    """
    rest = re.sub(r"\s+", " ", text).strip(" .").lower()
    background = None
    if match := _BACKGROUND.search(rest):
        background, rest = match[1], rest[: match.start()]
    for prefix in ("picture of ", "drawing of "):
        rest = _ARTICLE.sub("", rest).removeprefix(prefix)
    label = _ARTICLE.sub("", rest)
    return EmojiScene(label, background) if label in labels else None
