"""Settings that come as a plain mapping, as Hydra and JSON give them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from evolvedirector.errors import UserError

Settings = TypeVar("Settings")


def settings_of(kind: type[Settings], value: Settings | Mapping[str, Any], name: str) -> Settings:
    """Return a group of settings, made of a mapping where it is one.

    Args:
        kind: The dataclass that is wanted.
        value: It, or a mapping of its fields (a dict, an OmegaConf config).
        name: What the argument is called.

    Raises:
        UserError: It is neither, or a field is not known.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise UserError(
            f"{name} is {value!r}, a {type(value).__name__}. It must be a {kind.__name__} or a mapping of its fields. "
            f"Write {name}={kind.__name__}(...)."
        )
    plain = _plain(value)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in plain:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            raise UserError(
                f"{name} has no setting {key!r}. Allowed: {', '.join(known)}. "
                + (f"Did you mean {near[0]!r}?" if near else "Leave it out.")
            )
    return kind(**plain)


def refuse_unbuilt(name: str, value: object, example: str) -> None:
    """Refuse a description where an object is wanted: nobody built it.

    Args:
        name: What the argument is called.
        value: What was given.
        example: Path of a class that would do.

    Raises:
        UserError: It is a mapping, a text or a class.
    """
    if isinstance(value, Mapping | str | type):
        what = "a mapping" if isinstance(value, Mapping) else repr(value)
        raise UserError(
            f"{name} is {what}, which describes an object and is none. It must be built already. In Python write "
            f"{name}={example.rpartition('.')[2]}(...); with Hydra `{name}: {{_target_: {example}}}` and "
            f"hydra.utils.instantiate; in a LightningCLI `{name}: {{class_path: {example}}}`."
        )


def _plain(value: Any) -> Any:
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, Mapping) else value
