"""Real emoji art in five styles: single concepts under one vocabulary, with teachers, judge and writer."""

from importlib import import_module
from typing import Any

_FILES = {
    "EmojiHeldOut": "held_out",
    "EmojiJudge": "judge",
    "EmojiPrompts": "prompts",
    "EmojiTeacher": "teacher",
    "EmojiWriter": "writer",
}
"""Class to module. Imported late: they bring the artwork and torch."""

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
