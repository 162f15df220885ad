"""Short YAML files that people write by hand: read with a cap on their size, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from evolvedirector.errors import UserError

MAX_BYTES = 2**20


def read_short_yaml(path: Path, what: str, form: str) -> Any:
    """Read what a short YAML holds.

    Args:
        path: The file.
        what: What it is of: `judge`, `skill`.
        form: Which form is allowed, as a sentence.

    Raises:
        UserError: It cannot be read, is too large, or is no YAML.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has over {MAX_BYTES} bytes")
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"The {what} file '{path}' cannot be read: {' '.join(str(error).split())}. {form} Correct its path or "
            "content."
        ) from error
