"""Content by key in a folder: found, memory-mapped, shared by several processes.

Each process appends to a file of its own, so that nothing is ever overwritten and a shared file system will do (LMDB
and SQLite would be less code, and both warn against network file systems). An entry is a header (magic, key, length of
the content, checksum of the content, checksum of the header) and the content. An entry whose end is not there, or
whose checksum differs, does not exist.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
import uuid
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<4s16sQI")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_MAGIC = b"EDT1"
SUFFIXES = (".latents", ".states", ".embeddings")
"""Of the files of every such store: what `data collect --caches` deletes."""
_MAX_MAPPED = 32  # files; each map holds a descriptor


@dataclass(frozen=True, slots=True)
class _Entry:
    file: Path
    start: int
    length: int
    checksum: int


class KeyedFiles:
    """Keep contents by key in a folder, up to a size.

    At its size it stops writing, with one warning, and still reads: a training comes back to everything in turn, and a
    store that made room by dropping the oldest would drop each content just before it is asked for again.

    Args:
        folder: Made at the first write.
        max_bytes: Size of all files together; no process writes past it.
        what: Names the contents in warnings: `Text states`.
        setting: Names the argument that holds the size: `text_cache_gib`.
        suffix: Of the files, with its dot.
        writes: False reads what is there, and no more.
    """

    def __init__(self, folder: Path, max_bytes: int, what: str, setting: str, suffix: str, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        self._max_bytes, self._what, self._setting, self._suffix = max_bytes, what, setting, suffix
        self._entries: dict[bytes, _Entry] = {}
        self._scanned: dict[Path, int] = {}  # how far each file was understood
        self._maps: OrderedDict[Path, mmap.mmap] = OrderedDict()
        self._checked: set[bytes] = set()
        self._own: Path | None = None

    def read(self, key: str) -> bytes | None:
        """Return the content of a key; None where no process has written it whole.

        Args:
            key: 32 hex characters.
        """
        name = bytes.fromhex(key)
        if name not in self._entries:
            self._scan()
        entry = self._entries.get(name)
        content = None if entry is None else self._content(entry)
        if content is None or (name not in self._checked and zlib.crc32(content) != entry.checksum):  # type: ignore[union-attr]
            self._entries.pop(name, None)
            return None
        self._checked.add(name)
        return content

    def missing(self, keys: Iterable[str]) -> list[str]:
        """List the keys that have no content, without reading any: a damaged one is found at `read`.

        Args:
            keys: 32 hex characters each.
        """
        self._scan()
        return [key for key in keys if bytes.fromhex(key) not in self._entries]

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Append contents, all or none of them.

        Args:
            contents: By key.
        """
        if not self.writes or not contents:
            return
        entries = b"".join(_packed(bytes.fromhex(key), content) for key, content in contents.items())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                if self._size() + len(entries) > self._max_bytes:
                    return self._stop(
                        f"has reached its size of {self._max_bytes / 2**30:g} GiB. {self._what} that are not in it "
                        f"are computed again each time. Write a larger {self._setting}, or empty the folder"
                    )
                if self._own is None or not self._own.exists():  # under its old name, others would read old places
                    name = f"{time.time_ns():020d}-{uuid.uuid4().hex}{self._suffix}"  # sorted by name is sorted by age
                    self._own = self.folder / name
                with self._own.open("ab") as file:
                    file.write(entries)
        except OSError as error:  # a full disk or a folder that cannot be written: training does not need this
            self._stop(f"cannot be written ({error}). {self._what} are computed again each time. Make room there")

    def close(self) -> None:
        """Unmap the files; the next read maps them again."""
        while self._maps:
            self._maps.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave maps behind: another process opens its own, and appends to a file of its own."""
        return {**self.__dict__, "_maps": OrderedDict(), "_own": None}

    def _stop(self, reason: str) -> None:
        self.writes = False
        warnings.warn(f"The cache '{self.folder}' {reason}.", stacklevel=3)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob(f"*{self._suffix}"))

    def _scan(self) -> None:
        """Find entries that any process has added."""
        for path in sorted(self.folder.glob(f"*{self._suffix}")):
            try:
                size = path.stat().st_size
                if self._scanned.get(path, 0) + _HEADER_BYTES <= size:
                    self._scan_file(path, size)
            except FileNotFoundError:  # someone is emptying the cache
                continue

    def _scan_file(self, path: Path, size: int) -> None:
        position = self._scanned.get(path, 0)
        with path.open("rb") as file:
            while position + _HEADER_BYTES <= size:
                head = os.pread(file.fileno(), _HEADER_BYTES, position)
                if zlib.crc32(head[: _HEADER.size]) != _CHECKSUM.unpack(head[_HEADER.size :])[0]:
                    break
                magic, name, length, checksum = _HEADER.unpack(head[: _HEADER.size])
                start = position + _HEADER_BYTES
                if magic != _MAGIC or start + length > size:
                    break
                self._entries[name] = _Entry(path, start, length, checksum)
                self._checked.discard(name)
                position = start + length
        self._scanned[path] = position

    def _content(self, entry: _Entry) -> bytes | None:
        mapped = self._maps.get(entry.file)
        if mapped is None or len(mapped) < entry.start + entry.length:
            try:
                with entry.file.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except FileNotFoundError:  # someone has emptied the cache
                return None
            self._maps[entry.file] = mapped
        self._maps.move_to_end(entry.file)
        while len(self._maps) > _MAX_MAPPED:
            self._maps.popitem(last=False)[1].close()
        return mapped[entry.start : entry.start + entry.length]


def _packed(name: bytes, content: bytes) -> bytes:
    head = _HEADER.pack(_MAGIC, name, len(content), zlib.crc32(content))
    return head + _CHECKSUM.pack(zlib.crc32(head)) + content
