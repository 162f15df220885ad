"""Asking chat models behind an API: one question, one answer, however the service lets it be read."""

from importlib import import_module
from typing import Any

_FILES = {
    "ChatCompleter": "chat_completer",
}
"""Class to module. Imported late: it brings an HTTP client."""

__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
