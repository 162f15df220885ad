"""Immutable plain WebDataset tars, each with an index; written once, checked by reading again, named by content."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from evolvedirector.records import Sample
from evolvedirector.store.codec import canonical_json
from evolvedirector.store.durable import disk_full_named, make_folder, sync_folder, writing
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import sniff_format
from evolvedirector.store.shard_index import MAX_KEY_BYTES, RECORD, write_index

MEMBERS_PER_SAMPLE = 3
MAX_SHARD_SAMPLES = 10_000
_KEY = re.compile(rf"[a-z0-9_-]{{1,{MAX_KEY_BYTES}}}")  # a dot would split the key: WebDataset cuts at the first one


@dataclass(frozen=True, slots=True)
class Shard:
    """A published shard. `name` is its path below the root's `shards`, without extension."""

    name: str
    samples: int
    tar_bytes: int
    sha256: str


def sample_members(sample: Sample, image: bytes) -> dict[str, Any]:
    """Lay out one sample as WebDataset reads it: `<key>.json`, `<key>.png|jpg|webp`, `<key>.txt`."""
    if not _KEY.fullmatch(sample.key):
        raise StoreError(
            f"The sample key '{sample.key}' is refused. Allowed are 1 to {MAX_KEY_BYTES} of a-z, 0-9, '_' and '-'."
            " Use Sample.create."
        )
    about = {
        "prompt_id": sample.prompt.id,
        "text": sample.prompt.text,
        "parent": sample.prompt.parent_id,
        "origin": sample.prompt.origin,
        "skill": sample.prompt.skill,
        "lineage": sample.prompt.lineage_id,
        "teacher": sample.teacher,
        "image_sha256": sample.image_sha256,
    }
    text = sample.prompt.text.encode("utf-8", "surrogatepass")
    return {"__key__": sample.key, "json": canonical_json(about), sniff_format(image): image, "txt": text}


def write_shard(folder: Path, number: int, samples: Iterable[dict[str, Any]]) -> Shard:
    """Write samples into one new shard and its index; both are durable and verified when this returns.

    The same samples give the same bytes (mtime 0), hence the same name: doing it again after a crash changes nothing.

    Args:
        folder: The `shards` folder of a root.
        number: Number of the revision that adds it, for the name.
        samples: As `sample_members` lays them out; consumed one by one.

    Raises:
        StoreError: If what was written does not read back as it was given.
        DiskFullError: If the disk is full.
    """
    make_folder(folder)
    # the content names the file, so it is written under a working name first
    working = folder / f".r{number:04d}.{os.getpid()}.writing"
    try:
        with writing(working) as file:
            expected = _write_tar(file, samples)
            records, sha256 = _read_back(file, expected, working)
            tar_bytes = file.seek(0, os.SEEK_END)
        name = f"r{number:04d}-{sha256[:12]}"
        write_index(folder / f"{name}.index", records, tar_bytes)
        with disk_full_named(working):
            os.replace(working, folder / f"{name}.tar")
            sync_folder(folder)
    finally:
        working.unlink(missing_ok=True)
    return Shard(name, len(expected) // MEMBERS_PER_SAMPLE, tar_bytes, sha256)


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
    records = np.zeros(len(expected), RECORD)
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


def regular_members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of an open tar with their bytes.

    Raises:
        StoreError: At anything that is not a regular file or that is cut short.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            handle = tar.extractfile(member) if member.isreg() else None
            if handle is None:
                raise StoreError(f"The tar member '{member.name}' is no regular file. Only such members are read.")
            data = handle.read()
            if len(data) != member.size:
                raise StoreError(f"The tar member '{member.name}' is cut short. Restore the shard from a copy.")
            yield member, data
