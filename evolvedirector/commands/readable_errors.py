"""Print a message that is meant for the user as one paragraph; let everything unexpected keep its traceback."""

from __future__ import annotations

import difflib
import errno
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping

from evolvedirector.errors import RunError, UserError
from evolvedirector.secrecy.guard import redacted

_PERMITTED = ("a place where this user may read and write", "Change its permissions, or name another place.")
_A_FOLDER = ("a file where a file is meant and a folder where a folder is", "Correct the path, or name another place.")
_OF_FILES = {
    errno.EACCES: _PERMITTED,
    errno.EPERM: _PERMITTED,
    errno.EROFS: _PERMITTED,
    errno.ENOENT: ("a path that exists, or one that can be made", "Correct the path, or name another place."),
    errno.ENOTDIR: _A_FOLDER,
    errno.EISDIR: _A_FOLDER,
    errno.EEXIST: _A_FOLDER,
    errno.ENAMETOOLONG: ("a name of at most 255 bytes on most disks", "Write a shorter one."),
    errno.ELOOP: ("a link that leads to a file or folder", "Correct the link, or name another place."),
    errno.EINVAL: ("a name that the disk can hold", "Write another one."),
    errno.EIO: ("a disk that works", "Look at the disk, or name another place."),
    errno.ESTALE: ("a disk that is connected", "Connect it again, or name another place."),
}
"""What is allowed and what to do, by the number of the system's error."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONG_NAME = 200


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
        refused = next(filter(is_of_files, causes(error)), None)
        if (meant is None and refused is None) or os.environ.get("EVOLVEDIRECTOR_DEBUG") == "1":
            raise
        if meant is None:
            assert isinstance(refused, OSError)
            print_paragraph(file_error_text(refused))
            return 1 if refused.errno in _NO_ROOM else 2
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


def is_of_files(error: BaseException) -> bool:
    """Say whether the system refused a file or folder: what it says is enough to mend it, without a traceback.

    Args:
        error: Any error; those of connections and processes are none.
    """
    return isinstance(error, OSError) and (
        error.errno in _NO_ROOM or (error.filename is not None and error.errno in _OF_FILES)
    )


def file_error_text(error: OSError) -> str:
    """Write in three sentences what the system refused: the file, why, and what to do.

    Args:
        error: One that `is_of_files`.
    """
    name = error.filename2 or error.filename
    shown = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else "a file"
    if error.errno in _NO_ROOM:
        wanted, mend = "room on the disk and a limit that is not reached", "Free some space, or write somewhere else."
    else:
        wanted, mend = _OF_FILES[error.errno or 0]
    folder = f" (in '{os.path.dirname(os.path.abspath(shown))}')" if name and len(shown) < _LONG_NAME else ""
    shown = shown if len(shown) < _LONG_NAME else f"{shown[:_LONG_NAME]}..."
    return f"'{shown}'{folder} cannot be used: {error.strerror}. Allowed is {wanted}. {mend}"


def unknown_word(word: str, words: Iterable[str], hints: Mapping[str, str]) -> int:
    """Print that `word` is no command, with what to write in its place, and return the exit code.

    Args:
        word: What was given.
        words: The commands.
        hints: What to write in place of words that people look for.
    """
    hint = hints.get(word.lower().replace("_", "-").lstrip("-"))
    told = f" {hint}." if hint else nearest_name(word, words)
    print_paragraph(f"`{word}` is not a command of evolvedirector.{told}")
    return 2


def print_paragraph(text: str) -> None:
    """Print one wrapped paragraph to stderr; a secret that a library quoted is shown by its variable's name."""
    text = redacted(text)
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    lines = textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines), file=sys.stderr)
