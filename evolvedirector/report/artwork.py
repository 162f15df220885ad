"""Whose artwork the pictures of a page are made from; licences ask that shared pages say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EMOJI = (
    "Noto Emoji by Google Inc (Apache-2.0)",
    "Fluent Emoji by Microsoft Corporation (MIT)",
    "Twemoji by Twitter and contributors (CC-BY-4.0, https://creativecommons.org/licenses/by/4.0/)",
    "OpenMoji by OpenMoji (HfG Schwaebisch Gmuend and contributors, CC-BY-SA-4.0, "
    "https://creativecommons.org/licenses/by-sa/4.0/)",
)
_CHANGES = (
    "Changes: rasterised, resized and placed on plain backgrounds. Pictures made from OpenMoji are shared under the "
    "same licence."
)


def artwork_of(config: Mapping[str, Any]) -> str:
    """Name the artwork in the pictures of a run, as NOTICE does; empty where it drew with none of others.

    Args:
        config: The merged config of the run.
    """
    if not _names_emoji(config):
        return ""
    return f"Pictures on this page contain artwork of {'; '.join(_EMOJI)}. {_CHANGES}"


def _names_emoji(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_names_emoji(part) for part in value.values())
    if isinstance(value, list):
        return any(_names_emoji(part) for part in value)
    return isinstance(value, str) and ("evolvedirector.worlds.shapes.emoji_" in value or value.endswith("EmojiTeacher"))
