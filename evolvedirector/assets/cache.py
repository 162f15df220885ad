"""Where assets of others live on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir

from evolvedirector.errors import UserError
from evolvedirector.store.paths import user_path

CACHE_VARIABLE = "EVOLVEDIRECTOR_CACHE"


def cache_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the cache folder: the one given, else the environment's EVOLVEDIRECTOR_CACHE, else the user's own.

    Args:
        folder: None leaves the choice to the environment and the platform.

    Raises:
        UserError: There is no home folder to put it into.
    """
    chosen = folder or os.environ.get(CACHE_VARIABLE)
    try:
        return user_path(chosen or user_cache_dir("evolvedirector", appauthor=False)).absolute()
    except RuntimeError as error:  # neither HOME nor an entry in the list of users
        raise UserError(
            f"This user has no home folder, and so no cache folder. Allowed is any folder in {CACHE_VARIABLE}. Write"
            f" `export {CACHE_VARIABLE}=/tmp/evolvedirector`, say."
        ) from error
