"""Recipes as YAML files; `path()` says where they are installed."""

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """Return the folder of the installed recipes."""
    return Path(__file__).parent
