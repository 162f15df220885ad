"""Records as plain JSON and back; every field is checked, nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from evolvedirector.records import UNLABELLED, FileRef, Origin, Prompt, PromptState
from evolvedirector.store.errors import StoreError


def canonical_json(value: Any) -> bytes:
    """Write a value as the one JSON text that has this content: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    """Write a prompt as JSON; fields that say nothing are left out."""
    fields = {
        "id": prompt.id,
        "text": prompt.text,
        "origin": prompt.origin,
        "skill": prompt.skill,
        "parent_id": prompt.parent_id,
        "lineage_id": prompt.lineage_id,
        "width_px": prompt.width_px,
        "height_px": prompt.height_px,
    }
    return {name: value for name, value in fields.items() if value is not None}


def prompt_from_json(fields: Mapping[str, Any]) -> Prompt:
    """Read what `prompt_to_json` wrote.

    Raises:
        StoreError: If a field is missing or has another type.
    """
    try:
        return Prompt(
            id=_text(fields["id"]),
            text=_text(fields["text"]),
            origin=checked(fields.get("origin", "seed"), Origin),
            skill=_text(fields.get("skill", UNLABELLED)),
            parent_id=None if fields.get("parent_id") is None else _text(fields["parent_id"]),
            lineage_id=_text(fields["lineage_id"]),
            width_px=None if fields.get("width_px") is None else int(fields["width_px"]),
            height_px=None if fields.get("height_px") is None else int(fields["height_px"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"A prompt in a revision cannot be read ({error!r}). Restore the file from a copy.") from error


def file_to_json(file: FileRef) -> dict[str, Any]:
    """Write a further file of a sample by its name; its content lies in the store."""
    return {
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
        "media_type": file.media_type,
        "width_px": file.width_px,
        "height_px": file.height_px,
    }


def state_from_json(value: Any) -> PromptState:
    """Read the state of a prompt."""
    try:
        return checked(value, PromptState)
    except ValueError as error:
        raise StoreError(f"A revision holds an unknown state: {error}. Restore the file from a copy.") from error


def checked(value: Any, allowed: Any) -> Any:
    """Return `value` if it is one of the words of a Literal type."""
    if value not in get_args(allowed):
        raise ValueError(f"{value!r} is not one of {', '.join(get_args(allowed))}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
