"""Scenes composed of emoji art: several concepts, counts and positions, with readers that know the truth."""

from importlib import import_module
from typing import Any

_FILES = {
    "EmojiFeatureReader": "feature_reader",
    "EmojiGold": "gold",
    "EmojiSceneHeldOut": "held_out",
    "EmojiSceneJudge": "judge",
    "EmojiScenePrompts": "prompts",
    "EmojiSceneWriter": "writer",
    "EmojiTemplateReader": "template_reader",
}
"""Class to module. Imported late: they bring the artwork and torch."""

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
