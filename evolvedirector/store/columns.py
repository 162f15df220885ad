"""A file of named arrays that is mapped into memory: processes that read one share its pages.

The first line has the length of the header, and the sha256 of that and of all that follows; the header is JSON and says
where each array lies. A file that is not whole is as good as none: it is a cache, and its reader makes do without.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evolvedirector.store.durable import writing

_FIRST_LINE = re.compile(rb"([0-9a-f]{64}) ([0-9]{12})\n")
_FIRST_LINE_BYTES = 64 + 1 + 12 + 1
_ALIGNED = 64
_CHUNK = 1 << 20
_TYPES: dict[str, np.dtype[Any]] = {
    "u1": np.dtype("u1"),
    "i4": np.dtype("<i4"),
    "i8": np.dtype("<i8"),
    "u8": np.dtype("<u8"),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """What such a file holds.

    Args:
        about: Plain JSON.
        arrays: By name, each of one dimension.
    """

    about: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def write_columns(path: Path, columns: Columns) -> None:
    """Write a file of columns durably.

    Args:
        path: Of the file; its folder is there.
        columns: Arrays of bytes, or of integers of 32 or 64 bits.

    Raises:
        DiskFullError: If the disk is full; nothing is left then.
    """
    named = {dtype: word for word, dtype in _TYPES.items()}
    places, offset = [], 0
    for name, values in columns.arrays.items():
        places.append([name, named[values.dtype], len(values), offset])
        offset += _padded(values.nbytes)
    header = json.dumps({"about": columns.about, "arrays": places}, ensure_ascii=True).encode()
    # both lines together end where an array may begin; the first one has a stated width for that
    shortest = _FIRST_LINE_BYTES + len(header) + 1
    header += b" " * (_padded(shortest) - shortest) + b"\n"
    length = b"%012d" % len(header)
    sha = hashlib.sha256(length)
    for part in _parts(header, columns.arrays):
        sha.update(part)
    with writing(path) as file:
        file.write(sha.hexdigest().encode() + b" " + length + b"\n")
        for part in _parts(header, columns.arrays):
            file.write(part)


def read_columns(path: Path) -> Columns | None:
    """Map a file of columns into memory, after its content was compared with its checksum.

    Args:
        path: Of the file.

    Returns:
        The columns; None: the file is damaged, or its header is none that `write_columns` writes.
    """
    with open(path, "rb") as file:
        found = _FIRST_LINE.fullmatch(file.readline(128))
        if found is None or int(found[2]) > os.fstat(file.fileno()).st_size:
            return None
        start, sha = file.tell(), hashlib.sha256(found[2])
        header = file.read(int(found[2]))
        sha.update(header)
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
        size = file.tell() - start - len(header)
    if sha.hexdigest().encode() != found[1]:
        return None
    data = np.memmap(path, np.uint8, "r", start + len(header), (size,)) if size else np.empty(0, np.uint8)
    try:
        fields = json.loads(header)
        return Columns(dict(fields["about"].items()), {str(a[0]): _array_at(data, *a[1:]) for a in fields["arrays"]})
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
        return None  # whole, but nothing that we wrote


def _array_at(data: np.ndarray, word: str, count: int, offset: int) -> np.ndarray:
    """Return an array where the header says that it lies."""
    dtype = _TYPES[word]
    size = count * dtype.itemsize
    if not (type(count) is type(offset) is int and 0 <= offset <= offset + size <= len(data)):
        raise ValueError("an array lies outside of the file")
    return np.asarray(data[offset : offset + size]).view(dtype)


def is_whole(path: Path) -> bool:
    """Say whether a file of columns holds what it did when it was written.

    Args:
        path: Of the file.
    """
    return read_columns(path) is not None


def _parts(header: bytes, arrays: Mapping[str, np.ndarray]) -> Iterator[Any]:
    yield header
    for values in arrays.values():
        yield np.ascontiguousarray(values).view(np.uint8).data
        yield bytes(_padded(values.nbytes) - values.nbytes)


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


class Strings:
    """A column of texts: their UTF-8 behind one another, and where each ends."""

    def __init__(self, ends: np.ndarray, data: np.ndarray) -> None:
        """Take the two arrays.

        Args:
            ends: int32 or int64 [texts].
            data: uint8 [bytes].
        """
        self._ends = ends
        self._data = data

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        return self.block(number, number + 1)[0]

    def block(self, start: int, stop: int) -> list[str]:
        """Return neighbouring texts.

        Args:
            start: Number of the first one.
            stop: Number behind the last one.
        """
        first = int(self._ends[start - 1]) if start else 0
        ends = (self._ends[start:stop] - first).tolist()
        data = self._data[first : first + ends[-1]].tobytes() if ends else b""
        places = zip([0, *ends[:-1]], ends, strict=True) if ends else ()
        return [data[begin:end].decode("utf-8", "surrogatepass") for begin, end in places]

    def ascii_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return texts as one array of bytes, S[rows], without an object for each.

        Args:
            rows: Their numbers, int [rows].
        """
        if not len(rows):
            return np.empty(0, "S1")
        starts = np.where(rows > 0, self._ends[rows - 1], 0)
        lengths = self._ends[rows] - starts
        width = max(int(lengths.max()), 1)
        table = np.zeros((len(rows), width), np.uint8)
        for column in range(width):
            inside = np.flatnonzero(lengths > column)
            table[inside, column] = self._data[starts[inside] + column]
        return table.reshape(-1).view(f"S{width}")


class StringsBuilder:
    """Gather texts for a column, without an object for each."""

    def __init__(self) -> None:
        """Begin without texts."""
        self._data = bytearray()
        self._ends = array("q")

    def add(self, text: str) -> None:
        """Add one.

        Args:
            text: Any.
        """
        self._data += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._data))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return what `strings_of` reads.

        Args:
            name: Of the column.
        """
        small = len(self._data) <= np.iinfo(np.int32).max
        ends = np.array(self._ends, np.int32 if small else np.int64)
        return {f"{name}.ends": ends, f"{name}.text": np.frombuffer(bytes(self._data), np.uint8)}


def strings_of(arrays: Mapping[str, np.ndarray], name: str, count: int, most_bytes: int | None = None) -> Strings:
    """Return a column of texts.

    Args:
        arrays: Of a file.
        name: Of the column.
        count: How many texts there must be.
        most_bytes: Of each. None: any.

    Raises:
        ValueError: The arrays are no such column.
    """
    ends, data = arrays[f"{name}.ends"], arrays[f"{name}.text"]
    if ends.dtype not in (np.int32, np.int64) or data.dtype != np.uint8:
        raise ValueError(f"the texts of '{name}' are numbers of another kind")
    if len(ends) != count or (count and (ends[0] < 0 or ends[-1] != len(data) or (ends[1:] < ends[:-1]).any())):
        raise ValueError(f"the texts of '{name}' do not end where they should")
    if most_bytes is not None and (np.diff(ends, prepend=ends.dtype.type(0)) > most_bytes).any():
        raise ValueError(f"a text of '{name}' has more than {most_bytes} bytes")
    return Strings(ends, data)


class KeyIndex:
    """Find the row of a key in a column of different texts, by its hash."""

    def __init__(self, hashes: np.ndarray, rows: np.ndarray, keys: Strings) -> None:
        """Take the two arrays and the column.

        Args:
            hashes: Of all keys, in ascending order, uint64 [keys].
            rows: Where the key of each hash lies, int32 [keys].
            keys: The column.
        """
        self._hashes = hashes
        self._rows = rows
        self._keys = keys

    def row_of(self, key: object) -> int | None:
        """Return the row of a key; None where it is not there.

        Args:
            key: Any; only a text can be there.
        """
        if not isinstance(key, str):
            return None
        wanted = np.uint64(_hash_of(key))
        place = int(np.searchsorted(self._hashes, wanted))
        while place < len(self._hashes) and self._hashes[place] == wanted:
            row = int(self._rows[place])
            if self._keys[row] == key:
                return row
            place += 1
        return None


def index_arrays(name: str, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Return what `index_of` reads.

    Args:
        name: Of the column.
        keys: Of all rows, in order.
    """
    hashes = np.fromiter((_hash_of(key) for key in keys), np.uint64)
    order = np.argsort(hashes, kind="stable")
    return {f"{name}.hashes": hashes[order], f"{name}.rows": order.astype(np.int32)}


def index_of(arrays: Mapping[str, np.ndarray], name: str, keys: Strings) -> KeyIndex:
    """Return the index of a column.

    Args:
        arrays: Of a file.
        name: Of the column.
        keys: The column.

    Raises:
        ValueError: The arrays are no such index.
    """
    hashes, rows = arrays[f"{name}.hashes"], arrays[f"{name}.rows"]
    if hashes.dtype != np.uint64 or rows.dtype != np.int32:
        raise ValueError(f"the index of '{name}' has numbers of another kind")
    if not len(hashes) == len(rows) == len(keys) or (len(rows) and not 0 <= rows.min() <= rows.max() < len(keys)):
        raise ValueError(f"the index of '{name}' is of other keys")
    return KeyIndex(hashes, rows, keys)


def _hash_of(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
