"""Nothing secret in a page that is passed on: a second line of defence, since no config should hold any."""

from __future__ import annotations

import os
import re
from typing import Any

from evolvedirector.secrecy.guard import KEY_SHAPES

HIDDEN = "(hidden)"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NAMES = re.compile(
    r"(?i)(api_?key|secret|passw(or)?d|passphrase|authorization|credential|private_?key|access_?key"
    r"|(^|_)(auth|access|api|bearer|refresh|hf|hub|wandb)_?token|^token$)"
)


def without_secrets(value: Any) -> Any:
    """Return a config without the values of keys named like secrets, and without texts that look like one.

    `api_key_env` and the like stay: they name a variable, not its content.

    Args:
        value: Parsed YAML.
    """
    if isinstance(value, dict):
        return {
            key: HIDDEN if item and isinstance(item, str | int) and _is_secret(str(key)) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return clean_text(value) if isinstance(value, str) else value


def clean_text(text: str) -> str:
    """Return a text without control characters, keys and passwords, and with `~` for the home folder."""
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    home = os.path.expanduser("~")
    if len(home) > 3:
        text = text.replace(home, "~")
    return KEY_SHAPES.sub(HIDDEN, text)


def _is_secret(name: str) -> bool:
    return _NAMES.search(name) is not None and not name.endswith("_env")
