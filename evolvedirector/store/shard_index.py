"""The index beside a shard: one fixed-width record per member, mapped into memory and read by offset."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from evolvedirector.store.durable import write_durably
from evolvedirector.store.errors import StoreError

MAX_KEY_BYTES = 64
RECORD = np.dtype(
    [("key", f"S{MAX_KEY_BYTES}"), ("extension", "S8"), ("offset", "<u8"), ("size", "<u8"), ("sha256", "u1", (32,))]
)
_MAGIC = b"EVDINDEX"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQQ")  # magic, version, bytes per record, members, bytes of the tar


def write_index(path: Path, records: np.ndarray, tar_bytes: int) -> None:
    """Write the index of a shard durably.

    Args:
        path: The `.index` file.
        records: Array [members] of `RECORD`, in the order of the tar.
        tar_bytes: Size of the shard; a shard of another size is refused when it is read.
    """
    header = _HEADER.pack(_MAGIC, _VERSION, RECORD.itemsize, len(records), tar_bytes)
    write_durably(path, header + records.astype(RECORD, copy=False).tobytes())


def open_index(path: Path) -> tuple[np.ndarray, int]:
    """Map an index into memory.

    Returns:
        The records [members] (read-only) and the size in bytes that the shard must have.

    Raises:
        StoreError: If the file is missing, cut short or of another version.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise StoreError(f"The index '{path}' cannot be read: {error}. Restore it from a copy.") from error
    if len(head) < _HEADER.size or head[:8] != _MAGIC:
        raise StoreError(f"'{path}' is no index of a shard. Restore it from a copy.")
    _, version, record_bytes, members, tar_bytes = _HEADER.unpack(head)
    if version != _VERSION or record_bytes != RECORD.itemsize:
        raise StoreError(f"The index '{path}' has version {version}. This program reads {_VERSION}. Use the newer one.")
    if size != _HEADER.size + members * RECORD.itemsize:
        raise StoreError(f"The index '{path}' has {size} bytes and was cut short or grew. Restore it from a copy.")
    if members == 0:
        return np.empty(0, RECORD), tar_bytes
    return np.memmap(path, RECORD, "r", offset=_HEADER.size, shape=(members,)), tar_bytes
