"""Turn what a user wrote into paths: one file or folder, or the files that a name or a pattern stands for."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from evolvedirector.errors import UserError
from evolvedirector.store.errors import StoreError

MAX_EXPANDED_NAMES = 100_000
"""Names that one pattern may write out with braces: `{0..999999999}` is a slip, and would fill the memory."""
MODELS_VARIABLE = "EVOLVEDIRECTOR_MODELS"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?\d+)?\}")
_SIGNS = re.compile(r"[*?\[\]{}]")


def user_path(given: str | os.PathLike[str]) -> Path:
    """Return the path that a user means, with `~` and `~name` as home folders; everything else is taken literally.

    Lightning expands `~` in `default_root_dir`. What stands beside it must, or one run lies in two places.

    Args:
        given: As it was written. A name that begins with `~` in the current folder is written `./~name`.

    Raises:
        UserError: If it is empty, holds a NUL, or names a home folder that there is not.
    """
    text = os.fspath(given)
    if not text.strip() or "\0" in text:
        raise UserError(
            f"The path {text!r} is empty or holds a NUL. Allowed is the name of a file or folder. Write one, such as"
            " 'runs/mine'."
        )
    if not text.startswith("~"):
        return _kept(Path(text))
    user = text[1:].partition("/")[0]
    expanded = os.path.expanduser(text)
    # an empty HOME makes `/rest` of `~/rest`, which is another place
    if os.path.isabs(expanded) and (user or os.environ.get("HOME", "unset").strip()):
        return Path(expanded)
    if user and os.path.lexists(text):
        return _kept(Path(text))
    whose = f"there is no user '{user}' here" if user else "neither HOME nor the list of users names your home folder"
    raise UserError(
        f"The path '{text}' begins with `~`, and {whose}. Allowed is `~` where there is a home folder. Write the whole"
        f" path, or './{text}' for a name that begins with `~`."
    )


def folder_or_hub_name(name: str) -> str:
    """Return the name of a model with `~` written out; a name of the model hub stays, unless the model lies here.

    Args:
        name: A folder, or `owner/model`.

    Raises:
        UserError: If it begins with `~` and there is no such home folder.
    """
    if (folder := local_model(name)) is not None:
        return str(folder)
    return str(user_path(name)) if name.startswith("~") else name


def local_model(name: str) -> Path | None:
    """Return the folder of a model of the hub among those of the environment's EVOLVEDIRECTOR_MODELS; None: not there.

    It is laid out as the hub is, `owner/model`, so that one config runs with and without a network, and in a test with
    small models of the same names.

    Args:
        name: As written in a config.

    Raises:
        UserError: If EVOLVEDIRECTOR_MODELS names no folder.
    """
    kept = os.environ.get(MODELS_VARIABLE)
    if not kept or not _HUB_NAME.fullmatch(name):
        return None
    if not user_path(kept).is_dir():
        raise UserError(
            f"{MODELS_VARIABLE} is '{kept}', which is no folder. Allowed is a folder of models, each under its name on "
            f"the hub. Make it, or write `unset {MODELS_VARIABLE}`."
        )
    folder = user_path(kept) / name
    return folder if folder.is_dir() and not Path(name).is_dir() else None


def hub_name(name: str) -> str:
    """Return what a model is called on the hub where it lies among the models of the environment, else the name itself.

    Args:
        name: As `folder_or_hub_name` returns it.
    """
    kept = os.environ.get(MODELS_VARIABLE)
    folder = user_path(kept) if kept else None
    if folder is None or not Path(name).is_relative_to(folder):
        return name
    return Path(name).relative_to(folder).as_posix()


def matching_files(given: str | os.PathLike[str], problems: list[str]) -> list[Path]:
    """List the files that a path or a pattern names, each once, in a stable order.

    What exists is taken literally, whatever signs its name holds: a file is that file, a folder is every file below
    it. Otherwise it is a pattern: `*`, `?` and `[a-z]` within a name, `**` for all folders below, `{000..009}` and
    `{a,b}` written out. In a pattern, too, each folder that exists is taken literally first: `cards [v2]/**` reads the
    folder `cards [v2]` where there is one. Names that begin with a dot are passed over, as in a shell, unless the
    pattern spells the dot. Links to folders are followed, each real folder is read once.

    Args:
        given: As the user wrote it; `~` is expanded.
        problems: What was found but cannot be read is noted here: closed folders and files, broken links, pipes.

    Returns:
        Plain files that may be read. Empty only if a pattern matches none.

    Raises:
        UserError: If the path cannot be meant, see `user_path`.
        StoreError: If it does not exist or may not be opened, a name that braces write out does not exist, or the
            braces are not understood.
    """
    path = user_path(given)
    walk = _Walk(problems)
    if _exists(path):
        return list(walk.all_of(path))
    prefix = _longest_existing(path)
    rest = path.relative_to(prefix).as_posix() if prefix != Path() else path.as_posix()
    found: list[Path] = []
    for name in _written_out(rest, str(given)):
        start, parts = _start(prefix, name)
        whole = start.joinpath(*parts)
        if _exists(whole):
            found += walk.all_of(whole)
        elif not _SIGNS.search("/".join(parts)):
            raise StoreError(
                f"'{whole}' does not exist. Allowed is a file, a folder, or a pattern such as 'folder/**' or"
                " 'x-{000..009}.tar' in quotes. Correct the name."
            )
        else:
            found += sorted(walk.matching(start, parts))
    return list(dict.fromkeys(found))


def _kept(path: Path) -> Path:
    """Keep a name that begins with `~` from being expanded by whoever reads the path next."""
    return path.absolute() if path.parts[:1] and path.parts[0].startswith("~") else path


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.ELOOP):
            raise StoreError(
                f"'{path}' may not be opened: {error.strerror}. Allowed is what this user may read. Change the"
                " permissions, or name another place."
            ) from error
        return False
    return True


def _longest_existing(path: Path) -> Path:
    return next((parent for parent in path.parents if parent != Path() and os.path.isdir(parent)), Path())


def _start(prefix: Path, name: str) -> tuple[Path, tuple[str, ...]]:
    """Split a written-out name into the folder where the search begins and the parts below it."""
    if prefix != Path():
        return prefix, Path(name).parts
    path = user_path(name)  # `{~/a,/b}`: each may begin anew
    return (Path(path.anchor), path.parts[1:]) if path.anchor else (Path(), path.parts)


def _written_out(pattern: str, given: str) -> Iterator[str]:
    """Write out the braces of a pattern."""
    import braceexpand

    sizes = [abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(pattern)]
    try:
        names = list(islice(braceexpand.braceexpand(pattern), MAX_EXPANDED_NAMES + 1)) if _few(sizes) else None
    except ValueError as error:
        raise StoreError(
            f"The pattern '{given}' is not understood: {error}. Allowed are braces in pairs. Write"
            " 'x-{{000..009}}.tar', say."
        ) from error
    if names is None or len(names) > MAX_EXPANDED_NAMES:
        raise StoreError(
            f"The braces of '{given}' write out more than {MAX_EXPANDED_NAMES} names. Allowed are that many. Use '*'"
            " instead."
        )
    return iter(name for name in names if name)


def _few(sizes: Sequence[int]) -> bool:
    product = 1
    for size in sizes:
        product *= size
    return product <= MAX_EXPANDED_NAMES


class _Walk:
    """Read folders, note what cannot be read, and enter each real folder once per search."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def all_of(self, path: Path) -> Iterator[Path]:
        """List a file that was named itself, or every file below a folder that was."""
        if os.path.isdir(path):
            try:
                os.scandir(path).close()
            except OSError as error:
                raise StoreError(
                    f"The folder '{path}' may not be opened: {error.strerror}. Allowed is what this user may read."
                    " Change its permissions, or name another folder."
                ) from error
            yield from sorted(self.matching(path, ("**",)))
        elif reason := _unreadable(path):
            raise StoreError(
                f"The file '{path}' cannot be used: {reason}. Allowed are plain files that this user may read. Change"
                " its permissions, or name another file."
            )
        else:
            yield path

    def matching(self, folder: Path, parts: Sequence[str]) -> Iterator[Path]:
        """List the readable files below a folder whose parts match.

        Args:
            folder: Where to look.
            parts: Names or patterns, one per level; `**` stands for any number of levels.
        """
        first, rest = parts[0], parts[1:]
        if first == "**":
            for below in self._folders(folder):
                yield from self.matching(below, rest or ("*",))
        elif _SIGNS.search(first) and not os.path.lexists(folder / first):
            hidden = first.startswith(".")
            for entry in self._listed(folder):
                if fnmatchcase(entry.name, first) and (hidden or not entry.name.startswith(".")):
                    yield from self._entry(folder / entry.name, rest)
        elif os.path.lexists(folder / first):
            yield from self._entry(folder / first, rest)

    def _entry(self, path: Path, rest: Sequence[str]) -> Iterator[Path]:
        if rest:
            if os.path.isdir(path):
                yield from self.matching(path, rest)
        elif not os.path.isdir(path):
            if reason := _unreadable(path):
                self._note(path, reason)
            else:
                yield path

    def _folders(self, start: Path) -> Iterator[Path]:
        """Yield a folder and all below it: real ones first, then links, none twice and none back up to its start."""
        above = {_identity(parent) for parent in start.resolve().parents}
        seen: set[tuple[int, int] | None] = {None}
        waiting, links = [start], list[Path]()
        while waiting or links:
            folder = waiting.pop() if waiting else links.pop(0)
            if _identity(folder) in seen:
                continue
            if _identity(folder) in above:
                self._note(folder, "this link leads to a folder that holds the one searched, and is not followed")
                continue
            seen.add(_identity(folder))
            yield folder
            below = [entry for entry in self._listed(folder) if not entry.name.startswith(".") and _is_folder(entry)]
            waiting += [folder / entry.name for entry in reversed(below) if not entry.is_symlink()]
            links += [folder / entry.name for entry in below if entry.is_symlink()]

    def _listed(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._note(folder, f"this folder may not be opened ({error.strerror})")
            return []

    def _note(self, path: Path, reason: str) -> None:
        if (line := f"{path}: {reason}") not in self.problems:
            self.problems.append(line)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Name a folder by its device and number, so that a link and its target are one; None: it is gone."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _unreadable(path: Path) -> str:
    """Say why a file cannot be read; empty where it can."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if not stat.S_ISREG(mode):
        return "it is no plain file"
    return "" if os.access(path, os.R_OK) else "it may not be read (Permission denied)"
