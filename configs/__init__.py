"""Recipes as YAML files; `path()` says where they are installed."""

from pathlib import Path

__all__ = ["path", "recipe_files"]

_PROMPTS = "prompts"


def path() -> Path:
    """Return the folder of the installed recipes."""
    return Path(__file__).parent


def recipe_files() -> list[Path]:
    """List the recipes: every YAML but the skills, which lie with the prompts."""
    return [file for file in sorted(path().rglob("*.yaml")) if file.relative_to(path()).parts[0] != _PROMPTS]
