"""Small roots for the tests of what lies at a URL, and a file system whose N-th call fails."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from evolvedirector.records import FileRef, Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore

CALLS = ("cat_file", "pipe_file", "put_file", "find", "cat_ranges")


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def publish(root: Path, numbers: range, name: str) -> str:
    """Publish one revision with these numbered samples on the newest one."""
    with DatasetStore(root, create=True) as store:
        parent = store.current()
        samples = tuple(
            Sample.create(Prompt.create(f"thing number {n}", skill=f"skill{n % 2}"), store.blobs.put(png(n)), "toy")
            for n in numbers
        )
        return store.publish(parent, name, RevisionChange(samples=samples))


def publish_companion(root: Path, name: str = "edges") -> str:
    """Publish a further file of every sample of the newest revision."""
    with DatasetStore(root) as store:
        sha = store.current()
        assert sha is not None
        derived = ((key, {"note": FileRef.of(key.encode(), "text/plain")}) for key in list(store.revision(sha).places))
        return store.publish_companion(sha, name, derived, made_by="test")


def objects_of(url: str) -> dict[str, bytes]:
    """Return all that lies at a memory:// URL, by name."""
    base = MemoryFileSystem._strip_protocol(url)
    return {
        path[len(base) :].lstrip("/"): bytes(file.getvalue())
        for path, file in MemoryFileSystem.store.items()
        if path.startswith(f"{base}/")
    }


def clear_memory() -> None:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


class Fault(OSError):
    """What the network says."""


@contextmanager
def failing(at: int, how: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Let the N-th call of `memory://` fail; yields how many there were.

    Args:
        at: Number of the call, from 1 on.
        how: `before`: nothing is done; `after`: it is done, and the answer is lost; `cut`: half of a file is written,
            which a store that is no object store does (what is created exclusively is there whole or not).
        monkeypatch: Of the test.
    """
    count = 0
    whole = {name: getattr(MemoryFileSystem, name) for name in CALLS}

    def wrapped(name: str, real: Any) -> Any:
        def call(self: MemoryFileSystem, path: Any, *args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count != at:
                return real(self, path, *args, **options)
            if how == "after":
                with suppress(FileExistsError, FileNotFoundError):
                    real(self, path, *args, **options)
            elif how == "cut" and name == "pipe_file" and options.get("mode") != "create":
                real(self, path, args[0][: len(args[0]) // 2], **options)
            elif how == "cut" and name == "put_file":
                data = Path(path).read_bytes()
                whole["pipe_file"](self, args[0], data[: len(data) // 2])
            raise Fault("connection reset by peer")

        return call

    with monkeypatch.context() as patched:
        for name in CALLS:
            patched.setattr(MemoryFileSystem, name, wrapped(name, whole[name]))
        yield lambda: count
