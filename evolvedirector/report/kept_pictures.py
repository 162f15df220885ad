"""Pictures that an evaluation kept, as a page shows them."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from evolvedirector.report.thumbnails import Thumbnails
from evolvedirector.store.images import MAX_IMAGE_BYTES

_SHA256 = re.compile(r"[0-9a-f]{64}")


def add_kept(thumbnails: Thumbnails, folder: Path, sha256: Any) -> str | None:
    """Take a kept picture into a page; returns its key there, or None where there is none.

    Args:
        thumbnails: Of the page.
        folder: Where `keep_picture` wrote it.
        sha256: Its name, as a summary says it; anything else names no file.
    """
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        return None
    return thumbnails.add(sha256, partial(_read, folder / f"{sha256}.png"))


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise OSError(f"{path} is too large")
    return path.read_bytes()
