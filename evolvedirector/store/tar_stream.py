"""Stream foreign WebDataset tars as raw bytes: local files only, nothing is decoded or executed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evolvedirector.store.errors import StoreError


def stream_tars(pattern: str) -> Iterator[dict[str, Any]]:
    """Yield the samples of tars as `__key__`, `__url__` and the bytes of each member by lower-case extension.

    Args:
        pattern: Local paths, with `{000..009}` expanded.

    Raises:
        StoreError: If a file is missing, is no local path, or was cut short (WebDataset itself would silently yield
            fewer samples).
    """
    import braceexpand
    import webdataset

    paths = list(braceexpand.braceexpand(pattern))
    for path in paths:
        _check_tar(path)
    # absolute paths: no `pipe:` (a shell) and no other scheme can be meant by one
    urls = [str(Path(path).absolute()) for path in paths]
    yield from webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)


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
