"""Parts given as a YAML of their own, `class_path` and `init_args`: read, and built by jsonargparse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.secrecy.guard import refuse_secrets
from evolvedirector.store.paths import user_path
from evolvedirector.store.short_yaml import read_short_yaml


def read_part(path: Path, name: str) -> dict[str, Any]:
    """Read the YAML of one part; its values may also stand below a key of the part's name.

    Args:
        path: The file.
        name: What it is: `judge`, `gold`.

    Raises:
        UserError: It cannot be read, names no class, or holds a secret of the environment.
    """
    path = user_path(path)
    content = read_short_yaml(path, name, "Allowed: a YAML with class_path and init_args.")
    content = content.get(name, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not isinstance(content.get("class_path"), str):
        raise UserError(
            f"The {name} file '{path}' names no class_path. Allowed: a YAML with class_path and init_args. Write "
            "`class_path: evolvedirector.worlds.shapes.MiniatureJudge`, say."
        )
    refuse_secrets(content, str(path))
    return content


def built_part(content: dict[str, Any], kind: type, name: str) -> Any:
    """Build a part from its YAML.

    Args:
        content: `class_path` and `init_args`.
        kind: What it must be: a class or a Protocol.
        name: What it is: `judge`, `gold`.

    Raises:
        jsonargparse.ArgumentError: Something does not fit.
        ValueError: What the class itself refuses.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", type=kind, required=True)
    config = parser.parse_args(part_words(content, name))
    # the second name is the older one
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return build(config)[name]


def part_words(content: dict[str, Any], name: str) -> list[str]:
    """Return the words of a command line that give one part.

    Args:
        content: `class_path` and `init_args`.
        name: What it is.
    """
    return [f"--{name}", json.dumps(content)]
