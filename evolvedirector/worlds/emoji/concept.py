"""One thing that every emoji artist can draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

EmojiStyle = Literal["noto", "fluent_3d", "fluent_flat", "twemoji", "openmoji"]
STYLES: tuple[EmojiStyle, ...] = get_args(EmojiStyle)

_SKILLS = {
    "smileys-emotion": "smileys",
    "people-body": "people",
    "animals-nature": "animals",
    "food-drink": "food",
    "travel-places": "places",
    "activities": "activities",
    "objects": "objects",
    "symbols": "symbols",
    "flags": "flags",
}


@dataclass(frozen=True)
class EmojiConcept:
    """A label with its groups and, per style, the name of its picture."""

    label: str
    hexcode: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    pictures: Mapping[str, str]
    """Style to icon name (vector styles) or file name (`fluent_3d`)."""

    @property
    def skill(self) -> str:
        """Everyday name of the group: `animals`, `food`, `vehicles`, `objects` ..."""
        if self.subgroup.startswith("plant"):
            return "plants"
        if self.subgroup.startswith("transport-") and self.subgroup != "transport-sign":
            return "vehicles"
        return _SKILLS.get(self.group, self.group)
