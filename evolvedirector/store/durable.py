"""Files that exist whole or not at all: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from evolvedirector.store.errors import DiskFullError

_NO_ROOM = {
    errno.ENOSPC: "No space left on the disk of",
    errno.EDQUOT: "No space left in the quota on the disk of",
    errno.EFBIG: "The limit for the size of a file is reached in",
}


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; a rename alone may be forgotten in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of an existing file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents, each durable in its parent before anything is written into it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with disk_full_named(folder):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def make_folders(folders: Iterable[Path]) -> None:
    """Create folders, each durable in its parent before anything is written into it; parents are synced once."""
    missing = [folder for folder in folders if not folder.is_dir()]
    parents = {folder.parent for folder in missing}
    for parent in parents:
        make_folder(parent)
    for folder in missing:
        with disk_full_named(folder):
            folder.mkdir(exist_ok=True)
    for parent in parents:
        sync_folder(parent)


@contextlib.contextmanager
def disk_full_named(path: Path) -> Iterator[None]:
    """Turn "no space left" (also over quota or a size limit) into one error that names the file and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DiskFullError(
            f"{_NO_ROOM[error.errno]} '{path.parent}' while writing '{path.name}'. What was published before is"
            " untouched and nothing half-written is kept. Free some space and give the same command again."
        ) from error


@contextlib.contextmanager
def writing(path: Path, name_later: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that becomes `path`, durably, when the block ends without an error.

    The block may read the file again before it ends (it is open for both), so a check can stop the rename.

    Args:
        path: Final name; an older file of that name is replaced in one step.
        name_later: The caller makes the name durable by `sync_folder`, once for many files.

    Raises:
        DiskFullError: If the disk is full at any step.
    """
    temporary = path.with_name(f".{path.name}.tmp.{uuid.uuid4().hex}")
    try:
        with disk_full_named(path):
            with open(temporary, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            if not name_later:
                sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def move_durably(old: Path, new: Path) -> None:
    """Give a file or folder another name in the same folder, in one step that a power cut does not undo.

    Raises:
        DiskFullError: If the disk is full.
    """
    with disk_full_named(new):
        os.replace(old, new)
        sync_folder(new.parent)


def write_durably(path: Path, data: bytes, name_later: bool = False) -> None:
    """Write a whole file so that a crash leaves the old one or the new one; `name_later` as in `writing`."""
    with writing(path, name_later) as file:
        file.write(data)


def delete_files(paths: Iterable[Path]) -> None:
    """Delete files in this order, and make it durable that they are gone."""
    folders = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        sync_folder(folder)
