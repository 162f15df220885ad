"""Recipes as YAML files; `path()` says where they are installed."""

from pathlib import Path

__all__ = ["path", "recipe_files"]

_PARTS = ("prompts", "pairs")
"""Folders of files that are no run: prompts with the skills they are written for, and builders of subject pairs."""


def path() -> Path:
    """Return the folder of the installed recipes."""
    return Path(__file__).parent


def recipe_files() -> list[Path]:
    """List the recipes: every YAML that is a run or a part of one."""
    return [file for file in sorted(path().rglob("*.yaml")) if file.relative_to(path()).parts[0] not in _PARTS]
