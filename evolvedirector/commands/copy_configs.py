"""`evolvedirector copy-configs`: copy the packaged recipes and their prompts to where they can be changed."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import evolvedirector.configs
from evolvedirector.commands.recipes import FOLDER
from evolvedirector.errors import UserError

_VALUE = re.compile(rf"(?<=: ){FOLDER}[^\s,}}]+")
_WORD = re.compile(rf"\b{FOLDER}(?=\w)")


def main(args: list[str]) -> int:
    """Copy the recipes.

    Args:
        args: The words after `copy-configs`.

    Raises:
        UserError: The folder holds something already, or cannot be written; nothing is copied then.
    """
    parser = argparse.ArgumentParser(
        prog="evolvedirector copy-configs",
        description="Copy the packaged recipes and their prompts into a folder, to read and to change. Without a copy"
        " `-c quickstart` takes the packaged ones.",
    )
    parser.add_argument("folder", type=Path, help="a new or an empty folder, such as configs")
    folder = parser.parse_args(args).folder
    try:
        copied = copy_configs(folder)
    except OSError as error:
        raise UserError(
            f"'{folder}' cannot be written: {error.strerror}. It must be a new or an empty folder in one that can be"
            " written. Name another, as `evolvedirector copy-configs configs`."
        ) from error
    start = f"evolvedirector fit -c {shlex.quote(f'{folder}/quickstart.yaml')}"
    print(f"Copied {copied} files into '{folder}'. Start one: {start}")
    return 0


def copy_configs(folder: Path) -> int:
    """Copy the packaged recipes; what they say about each other names the new folder.

    Args:
        folder: A new or an empty folder.

    Returns:
        How many files were copied.

    Raises:
        UserError: It holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"'{folder}' is there already and is no empty folder. Nothing of yours is overwritten. Name a new folder,"
            " as `evolvedirector copy-configs my_configs`."
        )
    source = evolvedirector.configs.path()
    files = [path for kind in ("yaml", "jsonl") for path in sorted(source.rglob(f"*.{kind}"))]
    for path in files:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text("utf-8")
        target.write_text(_renamed(text, folder) if path.suffix == ".yaml" else text, "utf-8")
    return len(files)


def _renamed(text: str, folder: Path) -> str:
    """Name the files of the copy in a recipe: plain words in its comments, a quoted text as a value."""
    if folder.as_posix() + "/" == FOLDER:
        return text
    lines = []
    for line in text.splitlines():
        if line.startswith("#"):
            line = _WORD.sub(lambda _: f"{shlex.quote(folder.as_posix())}/", line)
        else:
            line = _VALUE.sub(lambda m: json.dumps((folder / m[0].removeprefix(FOLDER)).as_posix()), line)
        lines.append(line)
    return "\n".join(lines) + "\n"
