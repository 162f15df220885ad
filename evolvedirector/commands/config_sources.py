"""Read the config files and flags of a command line again, in the order in which they apply."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from evolvedirector.commands.readable_errors import ConfigurationMistake, nearest_name
from evolvedirector.commands.recipes import recipe_names
from evolvedirector.store.errors import StoreError
from evolvedirector.store.paths import user_path
from evolvedirector.store.prompt_fields import decoded_text


def sources(args: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, tree) for each config file and each flag, in the order in which they apply."""
    words = iter(args[1:])
    for word in words:
        if not word.startswith("-") or word.startswith("--print_config"):
            continue
        name, equals, value = word.partition("=")
        value = value if equals else next(words, "")
        if name in ("-c", "--config"):
            yield value, read_yaml(user_path(value))
        else:
            appended = name.endswith("+")
            tree: Any = _flag_value(value)
            tree = [tree] if appended and not isinstance(tree, list) else tree
            for part in reversed(name.lstrip("-").rstrip("+").split(".")):
                tree = {part: tree}
            yield "command line", tree


def check_config_files(args: list[str]) -> None:
    """Read each config file of a command line before the parser does, which ends with a traceback, or crashes.

    Args:
        args: The command line, first word included.

    Raises:
        ConfigurationMistake: One may not be opened, is no UTF-8, no YAML or no mapping.
        UserError: A path cannot be meant.
    """
    words = iter(args[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("-c", "--config") and (value := value if equals else next(words, "")):
            path = user_path(value)
            if os.path.isfile(path):  # what is none is for the parser to explain
                read_yaml(path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one config file.

    Raises:
        ConfigurationMistake: It is missing, is no YAML or is no mapping.
    """
    if path.is_dir():
        raise ConfigurationMistake(f"The config {path} is a folder. A config is a YAML file. Name one in it.")
    if not path.exists():
        beside = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigurationMistake(
            f"The config file {path} does not exist, and no packaged recipe has that name."
            f"{nearest_name(str(path), [*beside, *recipe_names()])}"
        )
    try:
        tree = yaml.safe_load(decoded_text(path.read_bytes()))
    except OSError as error:
        raise ConfigurationMistake(
            f"The config file {path} cannot be read: {error.strerror}. Allowed is a file that this user may read."
            " Change its permissions, or name another one."
        ) from error
    except (yaml.YAMLError, StoreError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or (
            "it is nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0]
        )
        raise ConfigurationMistake(
            f"{path} is not valid YAML{where}: {problem}. Check the signs, indentation and quotes there."
        ) from error
    if not isinstance(tree, dict | None):
        raise ConfigurationMistake(
            f"{path} holds a {type(tree).__name__}. A config is a mapping. Write `trainer: ...`."
        )
    return tree or {}


def _flag_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
