"""Questions about a model that draws given subjects: what is asked, and what answers are measured against."""

from importlib import import_module
from typing import Any

_FILES = {"DrawnQuestions": "drawn_questions", "FolderQuestions": "folder_questions"}
"""Class to module. Imported late: one brings a world with it."""

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
