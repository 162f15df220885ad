"""Find the recipes that are installed with the package, so that documented commands work outside a checkout.

What exists where the command is given is always taken as it is. Only a name that is no file there is looked for among
the packaged recipes, and each one that is taken is said on stderr.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any

import evolvedirector.configs

FOLDER = "configs/"
"""How recipes and their prompts are named in a checkout, in the documentation and in recipes."""
command_folder: ContextVar[str] = ContextVar("command_folder", default="")
"""Where the command is given: while a config is read, the working directory is that of the config. Empty: here."""
_said: set[str] = set()


def recipe_names() -> dict[str, Path]:
    """List the packaged recipes: `experiment/emoji_scenes` to its file."""
    folder = evolvedirector.configs.path()
    files = evolvedirector.configs.recipe_files()
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def find_recipe(name: str) -> Path | None:
    """Return the packaged recipe that is meant by a name; None where there is none.

    Args:
        name: `quickstart`, `experiment/emoji_scenes`, `emoji_scenes` (where only one folder has it), or such a path as
            `configs/quickstart.yaml`.
    """
    plain = PurePosixPath(name).as_posix().removeprefix(FOLDER).removesuffix(".yaml")
    recipes = recipe_names()
    if plain in recipes:
        return recipes[plain]
    same = [path for key, path in recipes.items() if key.rpartition("/")[2] == plain]
    return same[0] if len(same) == 1 else None


def with_recipes(words: list[str]) -> list[str]:
    """Replace what follows `-c` by the packaged recipe of that name where there is no such file.

    Args:
        words: A command line.
    """
    found = list(words)
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option not in ("-c", "--config"):
            continue
        if equals:
            found[place] = f"{option}={_recipe_or_same(value)}"
        elif place + 1 < len(words):
            found[place + 1] = _recipe_or_same(words[place + 1])
    return found


def _recipe_or_same(value: str) -> str:
    is_here = value.startswith("~") or (os.path.exists(value) and not os.path.isdir(value))
    if is_here or (path := find_recipe(value)) is None:
        return value
    _say(f"{value} is no file here: the packaged recipe is taken, {path}.")
    return str(path)


def with_packaged_files(tree: Any) -> Any:
    """Replace `configs/prompts/...` by the packaged file where a config names one that is not here.

    Args:
        tree: A config as it was read, or a part of one.
    """
    if isinstance(tree, dict):
        return {key: with_packaged_files(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [with_packaged_files(value) for value in tree]
    if not isinstance(tree, str) or not tree.startswith(FOLDER):
        return tree
    if os.path.exists(os.path.join(command_folder.get(), tree)):
        return tree
    path = evolvedirector.configs.path() / tree.removeprefix(FOLDER)
    if ".." in path.parts or not path.is_file():
        return tree
    _say(f"{tree} is not here: the packaged file is read, {path}.")
    return str(path)


def _say(text: str) -> None:
    """Print once, on the first rank of a machine."""
    if text not in _said and os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr)
    _said.add(text)
