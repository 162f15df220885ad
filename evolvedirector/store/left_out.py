"""What an import leaves out, as the user reads it: the first lines on the screen, all of them in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MAX_LISTED = 20


def printable(text: str) -> str:
    """Write what a terminal would obey or refuse (control characters, bytes that are no text) as escapes."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def first_lines(problems: Sequence[str], what: str = "left out") -> str:
    """List the first `MAX_LISTED` things that were left out, one line each, and say how many more there are."""
    lines = [f"{what}: {printable(problem)}" for problem in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        lines.append(f"... and {len(problems) - MAX_LISTED} more")
    return "\n".join(lines)


def write_list(root: Path, problems: Sequence[str]) -> Path:
    """Write all that was left out into a file beside a dataset root: `data.left_out.txt` for `data`.

    Beside and not inside, because a root into which nothing could be imported does not stay. Where nothing was left
    out, the list of an earlier attempt goes.

    Raises:
        OSError: If it cannot be written.
    """
    path = root.absolute().with_name(f"{root.absolute().name}.left_out.txt")
    if not problems:
        path.unlink(missing_ok=True)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{printable(problem)}\n" for problem in problems), encoding="utf-8")
    return path
