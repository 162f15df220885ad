"""Parts of a run given as a YAML of their own: `class_path` and `init_args`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from evolvedirector.commands.config_mistakes import explain_mistake
from evolvedirector.commands.readable_errors import ConfigurationMistake
from evolvedirector.errors import UserError
from evolvedirector.secrecy.guard import refuse_secrets

MAX_BYTES = 2**20


def read_part(path: Path, name: str) -> dict[str, Any]:
    """Read the YAML of one part; its values may also stand below a key of the part's name.

    Args:
        path: The file.
        name: What it is: `judge`, `gold`.

    Raises:
        UserError: It cannot be read, names no class, or holds a secret of the environment.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"The {name} file '{path}' has over {MAX_BYTES} bytes. Allowed: a short YAML. Name it.")
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"The {name} file '{path}' cannot be read: {' '.join(str(error).split())}. Allowed: a YAML with class_path "
            "and init_args. Correct its path or content."
        ) from error
    content = content.get(name, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not isinstance(content.get("class_path"), str):
        raise UserError(
            f"The {name} file '{path}' names no class_path. Allowed: a YAML with class_path and init_args. Write "
            "`class_path: evolvedirector.worlds.shapes.MiniatureJudge`, say."
        )
    refuse_secrets(content, str(path))
    return content


def build_part(content: dict[str, Any], kind: type, name: str, source: str) -> Any:
    """Build a part from its YAML.

    Args:
        content: `class_path` and `init_args`.
        kind: What it must be: the Protocol.
        name: What it is: `judge`, `gold`.
        source: Where it comes from, for messages.

    Raises:
        ConfigurationMistake: With what does not fit, in one paragraph.
        ValueError: What the class itself refuses.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", type=kind, required=True)
    words = [f"--{name}", json.dumps(content)]
    try:
        config = parser.parse_args(words)
        # the second name is the older one
        build = getattr(parser, "instantiate", None) or parser.instantiate_classes
        return build(config)[name]
    except ArgumentError as error:
        said = explain_mistake(["judge", *words], {}, {name}, error)
        raise ConfigurationMistake(f"{source}: {said}") from error
