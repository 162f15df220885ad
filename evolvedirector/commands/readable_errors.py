"""Print what a user can mend as one paragraph; let everything unexpected keep its traceback."""

from __future__ import annotations

import difflib
import dis
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from evolvedirector.secrecy.guard import redacted

_OUR_ERRORS = (ValueError, RuntimeError, OSError)


class ConfigurationMistake(ValueError):
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
    """Run a command; turn a mistake of the user or a refusal of ours into one paragraph and an exit code.

    Exit codes: 2 for something to mend in what was written, 1 for something that failed on the way.
    """
    try:
        return command()
    except Exception as error:
        meant = next(filter(is_ours, causes(error)), None)
        if meant is None or os.environ.get("EVOLVEDIRECTOR_DEBUG") == "1":
            raise
        print_paragraph(str(meant))
        failed_on_the_way = isinstance(meant, RuntimeError | OSError) and not isinstance(meant, FileNotFoundError)
        return 1 if failed_on_the_way else 2


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it; the parser wraps what a constructor raises."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def is_ours(error: BaseException) -> bool:
    """Tell whether `error` was raised by a `raise` statement of this project, so that its sentence was meant for users.

    A ValueError that Python raises inside our code (`int("x")`) has no `raise` of ours and counts as unexpected.
    """
    if isinstance(error, ConfigurationMistake) or type(error).__name__ == "MisconfigurationException":
        return True  # the latter is Lightning's own word for the same thing
    if not isinstance(error, _OUR_ERRORS) or error.__traceback__ is None:
        return False
    innermost: TracebackType = error.__traceback__
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    module = str(innermost.tb_frame.f_globals.get("__name__", ""))
    instruction = innermost.tb_frame.f_code.co_code[innermost.tb_lasti]
    return module.split(".")[0] == "evolvedirector" and instruction == dis.opmap["RAISE_VARARGS"]


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
