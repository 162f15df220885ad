"""Tars of a root at a URL in a folder of a bounded size, which the processes of a machine share.

A tar gets its own name once it was compared with its checksum. Where there is no room, the least recently used ones go;
who has one open reads on. Whoever fetches a tar holds a lock on the file that it grows in, so that nobody fetches it
twice, and what a killed process left is known by nobody holding that lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from evolvedirector.store.durable import disk_full_named, make_folder
from evolvedirector.store.errors import StoreError
from evolvedirector.store.objects import ObjectFiles
from evolvedirector.store.shards import Shard

TRIES = 2
"""Something that arrives damaged is fetched anew once."""
_LOCK = ".room.lock"
_WAIT_S = 0.1


class TarCache:
    """Fetch tars into a folder.

    Args:
        folder: Of the tars.
        objects: Where they come from.
        max_bytes: Of all tars in the folder, those that are being fetched included.
    """

    def __init__(self, folder: Path, objects: ObjectFiles, max_bytes: int) -> None:
        self.folder, self.objects, self.max_bytes = folder, objects, max_bytes

    def open(self, shard: Shard) -> int:
        """Open a tar, fetched first where it is not here; returns a descriptor.

        Args:
            shard: As the revision states it.

        Raises:
            StoreError: It is damaged there or gone, has no room, or nobody answers.
            DiskFullError: The disk is full.
        """
        path = self.folder / f"{shard.name}.tar"
        while True:
            if (descriptor := _opened(path, shard.tar_bytes)) is not None:
                return descriptor
            if (descriptor := self._fetched(shard, path)) is not None:
                return descriptor

    def _fetched(self, shard: Shard, path: Path) -> int | None:
        """Fetch a tar, alone of all processes; None: another one was quicker, or left it."""
        working = path.with_name(f".{path.name}.fetching")
        make_folder(path.parent)
        file = os.open(working, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_still(file, working):
                os.close(file)
                return None
            try:
                self._make_room(shard, file)
                self._download(shard, file, path)
                with disk_full_named(path):
                    os.fsync(file)
                    os.replace(working, path)
            except BaseException:
                working.unlink(missing_ok=True)
                raise
            fcntl.flock(file, fcntl.LOCK_UN)
        except BaseException:
            os.close(file)
            raise
        return file

    def _download(self, shard: Shard, file: int, path: Path) -> None:
        name = f"shards/{shard.name}.tar"
        for _ in range(TRIES):
            sha256, offset = hashlib.sha256(), 0
            try:
                for chunk in self.objects.chunks(name, shard.tar_bytes):
                    _write(file, chunk, offset, path)
                    sha256.update(chunk)
                    offset += len(chunk)
            except FileNotFoundError:
                raise gone(self.objects, name) from None
            if offset == shard.tar_bytes and sha256.hexdigest() == shard.sha256:
                return
        raise damaged(self.objects, name)

    def _make_room(self, shard: Shard, file: int) -> None:
        """Take the room that a tar needs; the least recently used ones go for it, and what dead processes left."""
        if shard.tar_bytes > self.max_bytes:
            raise StoreError(
                f"The shard '{shard.name}' has {shard.tar_bytes / 2**30:.3f} GiB, and the cache '{self.folder.parent}'"
                f" may have {self.max_bytes / 2**30:.3f}. It must have room for one at least. Write a larger `max_gib`."
            )
        while True:
            with alone(self.folder / _LOCK):
                os.ftruncate(file, 0)
                held = _sizes_by_use(self.folder)
                left = self.max_bytes - shard.tar_bytes - sum(size for _, size, _ in held)
                for _, size, path in held:
                    if left >= 0:
                        break
                    if path.suffix == ".tar" or _is_left_over(path):
                        path.unlink(missing_ok=True)
                        left += size
                if left >= 0:
                    with disk_full_named(self.folder / f"{shard.name}.tar"):
                        os.ftruncate(file, shard.tar_bytes)  # counted from now on
                    return
            time.sleep(_WAIT_S)  # what others are fetching takes the rest, until they have it


def touch(descriptor: int) -> bool:
    """Note that an open tar is in use; returns whether it is still in the cache.

    Args:
        descriptor: Of the tar.
    """
    if os.fstat(descriptor).st_nlink == 0:
        return False
    _mark_used(descriptor)
    return True


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Keep the other processes of this machine from doing the same; ends with the process, however it ends.

    Args:
        lock: A file, made where there is none.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def damaged(objects: ObjectFiles, name: str) -> StoreError:
    """Say that something is damaged where it comes from.

    Args:
        objects: Where that is.
        name: Of the file.
    """
    return StoreError(
        f"'{objects.url}/{name}' is damaged: it was fetched {TRIES} times and is not what its revision states. Delete"
        " that object, and write `evolvedirector data push --thorough ROOT URL` where the root lies."
    )


def gone(objects: ObjectFiles, name: str) -> StoreError:
    """Say that something is not there.

    Args:
        objects: Where it should be.
        name: Of the file.
    """
    return StoreError(
        f"'{objects.url}/{name}' is not there. Somebody deleted it, or its revision was collected before it was pushed."
        " Write `evolvedirector data push --thorough ROOT URL` where the root lies, or read a newer revision."
    )


def _write(file: int, chunk: bytes, offset: int, path: Path) -> None:
    """Write all of a chunk: a disk may take a part of it."""
    with disk_full_named(path):
        done = 0
        while done < len(chunk):
            done += os.pwrite(file, memoryview(chunk)[done:], offset + done)


def _opened(path: Path, size_bytes: int) -> int | None:
    """Open a file that has the size that it must have; None: there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if os.fstat(descriptor).st_size != size_bytes:
        os.close(descriptor)
        path.unlink(missing_ok=True)  # it was cut after it had been fetched
        return None
    _mark_used(descriptor)
    return descriptor


def _mark_used(descriptor: int) -> None:
    with contextlib.suppress(PermissionError):  # of another user's cache: it counts as older than it is
        os.utime(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _sizes_by_use(folder: Path) -> list[tuple[float, int, Path]]:
    """List tars and those that are being fetched, with time of use and size, least recently used first."""
    found = []
    for path in (*folder.glob("*.tar"), *folder.glob(".*.fetching")):
        with contextlib.suppress(FileNotFoundError):
            about = path.stat()
            found.append((about.st_mtime, about.st_size, path))
    return sorted(found)


def _is_left_over(path: Path) -> bool:
    """Say whether nobody is fetching this any more: whoever does holds a lock on it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
