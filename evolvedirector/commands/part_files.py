"""Parts of a run given as a YAML of their own, with what does not fit said in one paragraph."""

from __future__ import annotations

from typing import Any

from evolvedirector.commands.config_mistakes import explain_mistake
from evolvedirector.commands.readable_errors import ConfigurationMistake
from evolvedirector.models.part_files import built_part, part_words


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
    from jsonargparse import ArgumentError

    try:
        return built_part(content, kind, name)
    except ArgumentError as error:
        said = explain_mistake(["judge", *part_words(content, name)], {}, {name}, error)
        raise ConfigurationMistake(f"{source}: {said}") from error
