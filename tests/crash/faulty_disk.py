"""A disk that fails, dies, or forgets what was not fsynced, put under the store while one operation runs.

It stands where Python meets the system: files opened for writing, `fsync`, `replace`, `mkdir` and `unlink` below one
folder, and the transactions of the ledger (SQLite writes by itself; a transaction is there or not). Nothing reaches a
real disk: `fsync` only counts.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import shutil
import signal
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from evolvedirector.store.ledger.file import LedgerFile

Kind = Literal["write", "fsync", "rename", "mkdir", "unlink", "commit"]
KINDS: tuple[Kind, ...] = ("write", "fsync", "rename", "mkdir", "unlink", "commit")
FaultName = Literal["EIO", "ENOSPC", "SIGKILL"]
FAULTS: tuple[FaultName, ...] = ("EIO", "ENOSPC", "SIGKILL")
_OF_SQLITE = {"EIO": "disk I/O error", "ENOSPC": "database or disk is full"}


@dataclass(frozen=True)
class Fault:
    """What happens at the N-th operation of a kind; a full disk stays full."""

    name: FaultName
    kind: Kind
    number: int


@dataclass
class FaultyDisk:
    """Count the operations below a folder, and let one of them go wrong."""

    root: Path
    fault: Fault | None = None
    counts: dict[str, int] = field(default_factory=dict)
    was_hit: bool = False
    writers: set[str] = field(default_factory=set)
    """Modules that opened a file for writing."""
    _lock: Any = field(default_factory=threading.RLock)

    @contextmanager
    def under_the_store(self) -> Iterator[None]:
        """Put it between the store and the system."""
        real = {name: getattr(os, name) for name in ("fsync", "replace", "mkdir", "unlink")}
        opened, transaction = builtins.open, LedgerFile.transaction

        def fsync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            with self._step("fsync", path):
                self.synced(path, descriptor)

        def replace(old: Any, new: Any) -> None:
            with self._step("rename", Path(new)):
                real["replace"](old, new)
                self.renamed(Path(old), Path(new))

        def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            with self._step("mkdir", Path(path)):
                real["mkdir"](path, *args, **kwargs)
                self.made(Path(path))

        def unlink(path: Any, *args: Any, **kwargs: Any) -> None:
            with self._step("unlink", Path(path)):
                real["unlink"](path, *args, **kwargs)
                self.unlinked(Path(path))

        def open_(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not isinstance(path, str | Path) or not set(mode) & set("wax+") or not self._is_below(Path(path)):
                return opened(path, mode, *args, **kwargs)
            self.writers.add(_caller())
            if Path(path).name == ".lock":
                return opened(path, mode, *args, **kwargs)
            raw = _RawFile(self, Path(path), mode)
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        @contextmanager
        def counted(file: LedgerFile) -> Iterator[Any]:
            with transaction(file) as connection:
                yield connection
                with self._step("commit", file.path):
                    pass
            self.committed()

        with ExitStack() as patches:
            for name, shim in (("fsync", fsync), ("replace", replace), ("mkdir", mkdir), ("unlink", unlink)):
                patches.enter_context(mock.patch.object(os, name, shim))
            patches.enter_context(mock.patch.object(builtins, "open", open_))
            patches.enter_context(mock.patch.object(io, "open", open_))
            patches.enter_context(mock.patch.object(LedgerFile, "transaction", counted))
            yield

    def _is_below(self, path: Path) -> bool:
        return Path(os.path.abspath(path)).is_relative_to(self.root)

    @contextmanager
    def _step(self, kind: Kind, path: Path) -> Iterator[None]:
        """Carry out an operation that may go wrong before it has any effect."""
        with self._lock:
            if self._is_below(path):
                self.fail_at(kind)
            yield

    def fail_at(self, kind: Kind, begin: Callable[[], None] = lambda: None) -> None:
        """Count an operation, and fail or end the process where it is its turn.

        Args:
            kind: Of the operation.
            begin: Does a part of it, where it does not end before it began.
        """
        with self._lock:
            self.counts[kind] = number = self.counts.get(kind, 0) + 1
            fault = self.fault
            if fault is None:
                return
            full = fault.name == "ENOSPC" and self.was_hit and kind in ("write", "mkdir", "commit")
            if not full and (fault.kind, fault.number) != (kind, number):
                return
            self.was_hit = True
            if fault.name != "EIO":
                begin()
            if fault.name == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "commit":
                raise sqlite3.OperationalError(_OF_SQLITE[fault.name])
            number = errno.EIO if fault.name == "EIO" else errno.ENOSPC
            raise OSError(number, os.strerror(number))

    # what a recording notes; failing needs none of it

    def opened(self, path: Path, descriptor: int) -> None: ...
    def written(self, path: Path, descriptor: int) -> None: ...
    def synced(self, path: Path, descriptor: int) -> None: ...
    def renamed(self, old: Path, new: Path) -> None: ...
    def made(self, path: Path) -> None: ...
    def unlinked(self, path: Path) -> None: ...
    def committed(self) -> None: ...


class _RawFile(io.FileIO):
    """A file whose every write to the system is an operation of the disk."""

    def __init__(self, disk: FaultyDisk, path: Path, mode: str) -> None:
        super().__init__(path, mode.replace("b", ""))
        self._disk, self._path = disk, path
        disk.opened(path, self.fileno())

    def write(self, data: Any) -> int:
        data = bytes(data)

        def half() -> None:
            super(_RawFile, self).write(data[: len(data) // 2])

        self._disk.fail_at("write", half)
        written = super().write(data)
        self._disk.written(self._path, self.fileno())
        return written or 0


def _caller() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals["__name__"] in ("pathlib", __name__):
        frame = frame.f_back
    return str(frame.f_globals["__name__"])


def in_a_child(work: Callable[[], None]) -> tuple[int, str]:
    """Run something in a forked process; returns its exit code (negative: a signal) and its error, if any."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode()[:4000])
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


# ---- power cuts

Event = tuple[Any, ...]
CONTENTS = ("lost", "kept", "zeros", "half")
"""What is found of bytes that were not fsynced: those of before, all, as many zeros, their first half."""


class RecordingDisk(FaultyDisk):
    """Note every operation, so that what a power cut would leave can be made of any point."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.base = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        self.base_folders = {path for path in (root, *root.rglob("*")) if path.is_dir()}
        self.events: list[Event] = []
        self._ids: dict[int, int] = {}

    def _note(self, *event: Any) -> None:
        with self._lock:
            self.events.append(event)

    def _id(self, descriptor: int) -> int:
        return self._ids.get(os.fstat(descriptor).st_ino, -1)

    def opened(self, path: Path, descriptor: int) -> None:
        with self._lock:
            if (path not in self.base and self._id(descriptor) < 0) or os.fstat(descriptor).st_size == 0:
                self._ids[os.fstat(descriptor).st_ino] = number = len(self._ids) + len(self.events) * 1000
                self._note("create", path, number)

    def written(self, path: Path, descriptor: int) -> None:
        self._note("write", self._id(descriptor), path.read_bytes())

    def synced(self, path: Path, descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self._note("sync folder", path)
        elif self._id(descriptor) >= 0:
            self._note("sync", self._id(descriptor))

    def renamed(self, old: Path, new: Path) -> None:
        self._note("rename", old, new)

    def made(self, path: Path) -> None:
        self._note("mkdir", path)

    def unlinked(self, path: Path) -> None:
        self._note("unlink", path)

    def committed(self) -> None:
        self._note("ledger", {path: path.read_bytes() for path in _ledger_of(self.root)})


def _ledger_of(root: Path) -> list[Path]:
    return [path for path in root.glob("*.sqlite*") if not path.name.endswith("-shm")]


def after_power_cut(disk: RecordingDisk, point: int, target: Path, contents: str, names: str) -> None:
    """Lay out what a disk may hold when the power fails after some operations.

    Args:
        disk: With its record.
        point: How many operations were carried out.
        target: A folder that is made anew.
        contents: One of `CONTENTS`.
        names: Which changes of names are found of those whose folder was not synced: `none`, `all`, or a seed by which
            each is found or not.
    """
    here: dict[Path, int | bytes] = dict(disk.base)
    folders = set(disk.base_folders)
    ids: dict[Path, int | bytes] = dict(disk.base)
    now: dict[int, bytes] = {}
    durable: dict[int, bytes] = {}
    pending: list[tuple[Path, Callable[[], None]]] = []
    ledger = {path: data for path, data in disk.base.items() if path in _ledger_names(disk)}
    for event in disk.events[:point]:
        match event:
            case ("create", path, number):
                ids[path], now[number] = number, b""
                pending.append((path.parent, lambda path=path, number=number: here.update({path: number})))
            case ("write", number, data):
                now[number] = data
            case ("sync", number):
                durable[number] = now.get(number, b"")
            case ("rename", old, new):
                ids[new] = entry = ids.pop(old)
                pending.append((new.parent, lambda a=old, b=new, e=entry: (here.pop(a, None), here.update({b: e}))))
            case ("mkdir", path):
                pending.append((path.parent, lambda path=path: folders.add(path)))
            case ("unlink", path):
                ids.pop(path, None)
                pending.append((path.parent, lambda path=path: here.pop(path, None)))
            case ("sync folder", path):
                for folder, change in pending:
                    if folder == path:
                        change()
                pending = [item for item in pending if item[0] != path]
            case ("ledger", files):
                ledger = files
    chance = random.Random(names)
    for _, change in pending:
        if names == "all" or (names != "none" and chance.random() < 0.5):
            change()
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(folders):
        if all(parent in folders for parent in path.parents if parent.is_relative_to(disk.root)):
            (target / path.relative_to(disk.root)).mkdir(parents=True, exist_ok=True)
    for path, entry in here.items():
        place = target / path.relative_to(disk.root)
        if place.parent.is_dir() and path not in ledger and not path.name.startswith("ledger.sqlite"):
            place.write_bytes(entry if isinstance(entry, bytes) else _found(entry, now, durable, contents))
    for path, data in ledger.items():
        (target / path.relative_to(disk.root)).write_bytes(data)


def _ledger_names(disk: RecordingDisk) -> set[Path]:
    return {path for path in disk.base if ".sqlite" in path.name and not path.name.endswith("-shm")}


def _found(number: int, now: dict[int, bytes], durable: dict[int, bytes], contents: str) -> bytes:
    meant = now.get(number, b"")
    if durable.get(number) == meant or contents == "kept":
        return meant
    if contents == "zeros":
        return bytes(len(meant))
    return meant[: len(meant) // 2] if contents == "half" else durable.get(number, b"")


def faults_of(counts: dict[str, int], faults: Sequence[FaultName] = FAULTS) -> list[Fault]:
    """List every fault at every operation that an uninterrupted run carried out."""
    return [Fault(name, kind, n + 1) for name in faults for kind in KINDS for n in range(counts.get(kind, 0))]
