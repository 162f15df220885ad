"""Immutable plain WebDataset tars, each with an index; written once, checked by reading again, named by content.

The index has one fixed-width record per member, so a reader maps it into memory and reads members by offset. A shard
of samples whose only role is `image` has an index of version 1, as always; further roles need longer extensions
(`mask.png`), which are version 2.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from evolvedirector.records import FileRef, Sample, check_role
from evolvedirector.records.files import MAX_ROLE_CHARACTERS
from evolvedirector.store.codec import canonical_json
from evolvedirector.store.durable import make_folder, move_durably, write_durably, writing
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import extension_of
from evolvedirector.store.images import sniff_format

MAX_SHARD_SAMPLES = 10_000
MAX_KEY_BYTES = 64
MEMBERS_OF_AN_IMAGE = 3
"""`json`, the image and `txt`: every sample of a shard whose index has version 1."""
DESCRIPTION = (
    "prompt_id",
    "text",
    "parent",
    "origin",
    "skill",
    "lineage",
    "teacher",
    "image_sha256",
    "variant",
)
"""Fields of a sample's `json`, each a text."""
_KEY = re.compile(rf"[a-z0-9_-]{{1,{MAX_KEY_BYTES}}}")  # a dot would split the key: WebDataset cuts at the first one
_MAGIC = b"EVDINDEX"
_HEADER = struct.Struct("<8sIIQQ")  # magic, version, bytes per record, members, bytes of the tar
_EXTENSION_BYTES = {1: 8, 2: MAX_ROLE_CHARACTERS + len(".safetensors")}


def _record(version: int) -> np.dtype:
    extension = f"S{_EXTENSION_BYTES[version]}"
    return np.dtype(
        [
            ("key", f"S{MAX_KEY_BYTES}"),
            ("extension", extension),
            ("offset", "<u8"),
            ("size", "<u8"),
            ("sha256", "u1", (32,)),
        ]
    )


_RECORDS = {version: _record(version) for version in _EXTENSION_BYTES}


@dataclass(frozen=True, slots=True)
class Shard:
    """A published shard. `name` is its path below the root's `shards`, without extension."""

    name: str
    samples: int
    tar_bytes: int
    sha256: str
    roles: tuple[str, ...] = ()
    """What a companion shard holds: files derived later, for samples that lie in other shards. Empty for a shard of
    samples, each of which has all its own files in it."""
    made_by: str = ""
    """Fingerprint of the part that made the files of a companion; empty where nobody said it."""


def sample_members(sample: Sample, image: bytes, files: Mapping[str, bytes] | None = None) -> dict[str, Any]:
    """Lay out one sample as WebDataset reads it: `<key>.json`, `<key>.png|jpg|webp`, `<key>.txt`, `<key>.mask.png`.

    The description always has every field of `DESCRIPTION`, each a text: loaders that infer types from the first
    samples of a tar (Hugging Face `datasets`) take a null or a missing field for a type of its own. What is not there
    is an empty text; shards of before that have null in its place.

    Args:
        sample: What it is.
        image: The bytes of the role `image`.
        files: The bytes of the further roles, one for each of `sample.files`. None: there are none.

    Raises:
        StoreError: If the key or a role could not be part of a file name.
    """
    check_key(sample.key)
    about = {
        "prompt_id": sample.prompt.id,
        "text": sample.prompt.text,
        "parent": sample.prompt.parent_id or "",
        "origin": sample.prompt.origin,
        "skill": sample.prompt.skill,
        "lineage": sample.prompt.lineage_id,
        "teacher": sample.teacher,
        "image_sha256": sample.image_sha256,
        "variant": sample.variant,
    }
    assert tuple(about) == DESCRIPTION
    text = sample.prompt.text.encode("utf-8", "surrogatepass")
    members = {"__key__": sample.key, "json": canonical_json(about), sniff_format(image): image, "txt": text}
    return members | {member_name(role, ref): (files or {})[role] for role, ref in sample.files.items()}


def companion_members(key: str, files: Mapping[str, FileRef]) -> dict[str, Any]:
    """Lay out files that were derived for a sample of another shard: `<key>.<role>.<extension>`.

    Raises:
        StoreError: If the key or a role could not be part of a file name.
    """
    check_key(key)
    return {"__key__": key, **{member_name(role, ref): ref.content for role, ref in files.items()}}


def member_name(role: str, file: FileRef) -> str:
    """Name the member of a further role, without the key: `mask.png`."""
    try:
        check_role(role)
    except ValueError as error:
        raise StoreError(str(error)) from error
    return f"{role}.{extension_of(file.media_type)}"


def check_key(key: str) -> None:
    """Refuse a key that could not be part of a file name.

    Args:
        key: Of a sample.

    Raises:
        StoreError: It has other letters, or too many.
    """
    if not _KEY.fullmatch(key):
        raise StoreError(
            f"The sample key '{key[:MAX_KEY_BYTES]}' is refused. Allowed are 1 to {MAX_KEY_BYTES} of a-z, 0-9, '_' and"
            " '-'."
            " Use Sample.create."
        )


def write_shard(folder: Path, number: int, samples: Iterable[dict[str, Any]], companion: bool = False) -> Shard:
    """Write samples into one new shard and its index; both are durable and verified when this returns.

    The same samples give the same bytes (mtime 0), hence the same name: doing it again after a crash changes nothing.

    Args:
        folder: The `shards` folder of a root.
        number: Number of the revision that adds it, for the name.
        samples: As `sample_members` or `companion_members` lays them out; consumed one by one.
        companion: Its samples lie in other shards; its name begins with `c` and its index is sorted by key.

    Raises:
        StoreError: If what was written does not read back as it was given.
        DiskFullError: If the disk is full.
    """
    make_folder(folder)
    prefix = f"{'c' if companion else 'r'}{number:04d}"
    # the content names the file, so it is written under a working name first
    working = folder / f".{prefix}.{os.getpid()}.writing"
    try:
        with writing(working) as file:
            expected = _write_tar(file, samples)
            records, sha256 = _read_back(file, expected, working)
            tar_bytes = file.seek(0, os.SEEK_END)
        name = f"{prefix}-{sha256[:12]}"
        if companion:
            records = records[np.argsort(records["key"], kind="stable")]
        write_index(folder / f"{name}.index", records, tar_bytes)
        move_durably(working, folder / f"{name}.tar")
    finally:
        working.unlink(missing_ok=True)
    return Shard(name, len(sample_starts(records)) - 1, tar_bytes, sha256)


def index_tar(tar: Path, companion: bool = False) -> np.ndarray:
    """Make the records of a shard's index from its tar.

    Args:
        tar: A whole tar.
        companion: Sort the records by key, as those of companions are.

    Raises:
        StoreError: It holds something that no shard has.
    """
    rows: list[tuple[bytes, bytes, int, int, np.ndarray]] = []
    with open(tar, "rb") as file:
        for member, data in regular_members(file):
            key, _, extension = member.name.partition(".")
            digest = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
            rows.append((key.encode(), extension.encode(), member.offset_data, member.size, digest))
    records = np.zeros(len(rows), _RECORDS[2 if any(b"." in row[1] for row in rows) else 1])
    for place, row in enumerate(rows):
        records[place] = row
    return records[np.argsort(records["key"], kind="stable")] if companion else records


def _write_tar(file: BinaryIO, samples: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Write the tar; returns (member name, sha256) in its order."""
    import webdataset  # brings torch with it, so only where something is written

    expected = []
    with webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
        for sample in samples:
            writer.write(sample)
            names = sorted(name for name in sample if name != "__key__")
            expected += [(f"{sample['__key__']}.{n}", hashlib.sha256(sample[n]).hexdigest()) for n in names]
    file.flush()
    return expected


def _read_back(file: BinaryIO, expected: Sequence[tuple[str, str]], path: Path) -> tuple[np.ndarray, str]:
    """Read the tar from the file again, compare it with what was meant, and index it on the way."""
    os.fsync(file.fileno())
    file.seek(0)
    with_roles = any("." in member.split(".", 1)[1] for member, _ in expected)
    records = np.zeros(len(expected), _RECORDS[2 if with_roles else 1])
    found = 0
    for member, data in regular_members(file):
        if found == len(expected) or expected[found] != (member.name, hashlib.sha256(data).hexdigest()):
            break
        key, extension = member.name.split(".", 1)
        digest = np.frombuffer(bytes.fromhex(expected[found][1]), np.uint8)
        records[found] = (key.encode(), extension.encode(), member.offset_data, member.size, digest)
        found += 1
    if found != len(expected):
        raise StoreError(f"'{path}' does not read back as written (member {found}). Check the disk and try again.")
    file.seek(0)
    whole = hashlib.sha256()
    while block := file.read(2**20):
        whole.update(block)
    return records, whole.hexdigest()


class _WhatIsThere(io.RawIOBase):
    """Read no more of a file than it has: a header may claim any size, and room is taken for what is asked."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, start = file, file.tell()
        self.size_bytes = file.seek(0, os.SEEK_END)
        file.seek(start)

    def read(self, count: int = -1) -> bytes:
        """Read up to `count` bytes; below 0: all that is left."""
        left = max(0, self.size_bytes - self._file.tell())
        return self._file.read(left if count < 0 else min(count, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()


def regular_members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of an open tar with their bytes.

    Raises:
        StoreError: At anything that is not a regular file or that is cut short, and at damaged headers.
    """
    there = _WhatIsThere(file)
    try:
        with tarfile.open(fileobj=there, mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    raise StoreError(f"The tar member '{member.name}' is no regular file. Only such members are read.")
                if not member.name.isascii():
                    raise StoreError(f"The tar member {member.name!r} has no name that a shard would give it.")
                if (
                    not 0 <= member.size <= there.size_bytes - member.offset_data
                ):  # before as much is read as a header claims
                    raise StoreError(f"The tar member '{member.name}' is cut short. Restore the shard from a copy.")
                handle = tar.extractfile(member)
                assert handle is not None
                yield member, handle.read()
    except (tarfile.TarError, ValueError, ArithmeticError, RecursionError, EOFError) as error:
        raise StoreError(f"A header of a tar cannot be read: {error}. Restore the shard from a copy.") from error


def write_index(path: Path, records: np.ndarray, tar_bytes: int) -> None:
    """Write the index of a shard durably.

    Args:
        path: The `.index` file.
        records: Array [members] of the records of one version; those of one sample stand together.
        tar_bytes: Size of the shard; a shard of another size is refused when it is read.
    """
    version = next(version for version, record in _RECORDS.items() if record == records.dtype)
    header = _HEADER.pack(_MAGIC, version, records.dtype.itemsize, len(records), tar_bytes)
    write_durably(path, header + records.tobytes())


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
    if version not in _RECORDS or record_bytes != _RECORDS[version].itemsize:
        raise StoreError(
            f"The index '{path}' has version {version}. This program reads {', '.join(map(str, _RECORDS))}."
            " Use the newer one."
        )
    record = _RECORDS[version]
    if size != _HEADER.size + members * record.itemsize:
        raise StoreError(f"The index '{path}' has {size} bytes and was cut short or grew. Restore it from a copy.")
    if members == 0:
        return np.empty(0, record), tar_bytes
    return np.memmap(path, record, "r", offset=_HEADER.size, shape=(members,)), tar_bytes


def sample_starts(records: np.ndarray) -> Sequence[int]:
    """Say where the records of each sample begin in an index; the last number is that of all records."""
    if records.dtype == _RECORDS[1]:
        return range(0, len(records) + 1, MEMBERS_OF_AN_IMAGE)
    keys = records["key"]
    changes = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return [0, *changes.tolist(), len(records)]
