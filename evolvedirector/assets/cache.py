"""Where assets of others live on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir

CACHE_VARIABLE = "EVOLVEDIRECTOR_CACHE"


def cache_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the cache folder: the one given, else the environment's EVOLVEDIRECTOR_CACHE, else the user's own.

    Args:
        folder: None leaves the choice to the environment and the platform.
    """
    chosen = folder or os.environ.get(CACHE_VARIABLE) or user_cache_dir("evolvedirector", appauthor=False)
    return Path(chosen).expanduser().absolute()
