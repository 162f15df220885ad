"""Embedded worlds, each with its grammar, artists and readers: every claim about them has ground truth."""

from importlib import import_module
from typing import Any

_FILES = {
    "GrammarQuestions": "questions",
}
"""Class to module. Imported late: it brings the judges' questions."""

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
