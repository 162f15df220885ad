"""Stream foreign WebDataset tars as raw bytes: local files only, nothing is decoded or executed."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import MAX_IMAGE_BYTES


def stream_tars(pattern: str) -> Iterator[dict[str, Any]]:
    """Yield the samples of tars as `__key__`, `__url__` and the bytes of each member by lower-case extension.

    WebDataset groups the members; the files are opened here, so that no `pipe:` (a shell) or other address can be
    meant, and no member is larger than an image may be.

    Args:
        pattern: Local paths, with `{000..009}` expanded.

    Raises:
        StoreError: If a file is missing, is no plain tar, or was cut short (WebDataset itself would silently yield
            fewer samples).
    """
    import braceexpand
    from webdataset.tariterators import group_by_keys

    try:
        paths = list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise StoreError(f"The pattern '{pattern}' is not understood: {error}. Write 'x-{{000..009}}.tar'.") from error
    for path in paths:
        _check_tar(path)
    for path in paths:
        try:
            yield from group_by_keys(_members(path))
        except (tarfile.TarError, ValueError) as error:
            raise StoreError(f"The tar '{path}' cannot be read: {error}. Restore it from a copy.") from error


def _members(path: str) -> Iterator[dict[str, Any]]:
    with tarfile.open(path, "r|") as tar:
        for member in tar:
            if not member.isreg() or member.issparse():
                continue
            if member.size > MAX_IMAGE_BYTES:
                raise StoreError(
                    f"The member '{member.name}' of '{path}' has {member.size} bytes. At most {MAX_IMAGE_BYTES} are"
                    " allowed. Remove it."
                )
            content = tar.extractfile(member)
            assert content is not None
            yield {"fname": member.name, "data": content.read(), "__url__": path}


def _check_tar(path: str) -> None:
    """Refuse what is no complete local tar: the format ends with 1024 zero bytes."""
    if not Path(path).is_file():
        raise StoreError(
            f"The tar '{path}' does not exist. Only local files are read, such as 'x-{{000..009}}.tar' in quotes."
        )
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1024))
        if size < 1024 or file.read(1024).strip(b"\0"):
            raise StoreError(f"'{path}' is no complete tar: it was cut short or is compressed. Give a whole plain tar.")
