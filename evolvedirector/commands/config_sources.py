"""Read the config files and flags of a command line again, in the order in which they apply."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from evolvedirector.commands.readable_errors import ConfigurationMistake, nearest_name


def sources(args: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, tree) for each config file and each flag, in the order in which they apply."""
    words = iter(args[1:])
    for word in words:
        if not word.startswith("-") or word.startswith("--print_config"):
            continue
        name, equals, value = word.partition("=")
        value = value if equals else next(words, "")
        if name in ("-c", "--config"):
            yield value, read_yaml(Path(value))
        else:
            appended = name.endswith("+")
            tree: Any = _flag_value(value)
            tree = [tree] if appended and not isinstance(tree, list) else tree
            for part in reversed(name.lstrip("-").rstrip("+").split(".")):
                tree = {part: tree}
            yield "command line", tree


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one config file.

    Raises:
        ConfigurationMistake: It is missing, is no YAML or is no mapping.
    """
    if not path.is_file():
        beside = [str(other) for other in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigurationMistake(f"The config file {path} does not exist.{nearest_name(str(path), beside)}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is no text in UTF-8"
        raise ConfigurationMistake(
            f"{path} is not valid YAML{where}: {problem}. Check the indentation and quotes there."
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
