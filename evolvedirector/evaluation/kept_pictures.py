"""Pictures that an evaluation keeps for the report, under their content."""

from __future__ import annotations

import hashlib
from pathlib import Path


def keep_picture(folder: Path, picture: bytes) -> str:
    """Write a picture under its sha256, and return that.

    Args:
        folder: It is made where it is missing.
        picture: PNG.
    """
    name = hashlib.sha256(picture).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(picture)
    return name
