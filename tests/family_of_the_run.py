"""Which family of networks is tested whole in a run of the fast tests; the others' turn is in the slow tier."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FAMILIES = ("flux1", "flux2", "pixart", "qwen_image", "sana", "sd3", "sdxl", "stable_diffusion", "z_image")
VARIABLE = "EVOLVEDIRECTOR_TEST_FAMILY"


def family_of_the_run() -> str:
    """Name the family: that of the environment variable, else by the commit, so that all come up in turn.

    Without git it is the first one.

    Raises:
        ValueError: The variable names no family.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if named not in FAMILIES:
            raise ValueError(f"{VARIABLE} is {named!r}. Allowed are {', '.join(FAMILIES)}. Write one of them.")
        return named
    return family_of_commit(_commit())


def family_of_commit(commit: str) -> str:
    """Name the family of a commit.

    Args:
        commit: Hex digits; empty for none.
    """
    return FAMILIES[int(commit[:8] or "0", 16) % len(FAMILIES)]


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
