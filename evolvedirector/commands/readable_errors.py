"""Print a message that is meant for the user as one paragraph; let everything unexpected keep its traceback."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator

from evolvedirector.errors import RunError, UserError
from evolvedirector.secrecy.guard import redacted


class ConfigurationMistake(UserError):
    """A mistake in YAML or flags, already put into one readable paragraph."""


def nearest_name(wrong: str, valid: Iterable[str]) -> str:
    """Return ` Did you mean ...?` with the nearest valid name, else all valid ones (empty when there are none)."""
    names = sorted(set(valid))
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean `{near[0]}`?"
    shown = ", ".join(f"`{name}`" for name in names[:12]) + (", ..." if len(names) > 12 else "")
    return f" Allowed: {shown}." if names else ""


def run_readably(command: Callable[[], int | None]) -> int | None:
    """Run a command; print an error that is meant for the user as one paragraph, and return its exit code.

    Exit codes: 2 for something to mend in what was written, 1 for something that failed on the way.

    Args:
        command: Returns its own exit code, None for 0.
    """
    try:
        return command()
    except Exception as error:
        meant = next(filter(is_for_users, causes(error)), None)
        if meant is None or os.environ.get("EVOLVEDIRECTOR_DEBUG") == "1":
            raise
        print_paragraph(str(meant))
        return 1 if isinstance(meant, RunError) else 2


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it; the parser wraps what a constructor raises."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def is_for_users(error: BaseException) -> bool:
    """Say whether the message of an error is meant for the user, and not for whoever reads a traceback.

    Args:
        error: Any error. Lightning's `MisconfigurationException` is its own word for the same thing.
    """
    return isinstance(error, UserError | RunError) or type(error).__name__ == "MisconfigurationException"


def unknown_word(word: str, words: Iterable[str]) -> int:
    """Print that `word` is no command, with the nearest one, and return the exit code."""
    print_paragraph(f"`{word}` is not a command of evolvedirector.{nearest_name(word, words)}")
    return 2


def print_paragraph(text: str) -> None:
    """Print one wrapped paragraph to stderr; a secret that a library quoted is shown by its variable's name."""
    text = redacted(text)
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    lines = textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines), file=sys.stderr)
