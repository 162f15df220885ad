"""How a model that draws given subjects is measured: what it is asked, and the ends beside it.

A suite like those of `evolvedirector.evaluation.suites`; it lies here because it is made of the stages of pairs.
"""

from importlib import import_module
from typing import Any

_FILES = {
    "DrawnQuestions": "drawn_questions",
    "FolderQuestions": "folder_questions",
    "SubjectSuite": "subject_suite",
}
"""Class to module. Imported late: some bring a world with them."""

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
