"""The files of a dataset root at a URL, through any file system of fsspec.

There is no rename in an object store, so a name is written once: by content, or created where it must not exist yet.
What a backend tells about failure is turned into one error that names the object.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evolvedirector.errors import UserError
from evolvedirector.store.durable import make_folder, sync_folder, write_durably, writing
from evolvedirector.store.errors import StoreError

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SIGNED = re.compile(r"(://[^\s'\"?]*)\?[^\s'\"]*")
"""An address in what a backend says, with the query where its signature stands."""
_LOCAL = ("file", "local")
_CREATE_EXCLUSIVELY = (*_LOCAL, "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Whose fsspec backend passes "only where it is not there" to the store itself. The others, fsspec's own default among
them, ask first and write then, and two writers can both be told that there is nothing."""
_ACCOUNT_BEFORE_HOST = ("abfs", "abfss")  # abfs://container@account.dfs.core.windows.net/path
_ALSO_REFUSED = (errno.EINVAL, errno.EBUSY, errno.EIO)
"""What s3fs makes of a refusal where a server does not say which condition failed, or two writers met."""
_CHUNK_BYTES = 2**26
_MOST_TOLD_CHARACTERS = 300


def is_url(root: str | os.PathLike[str]) -> bool:
    """Say whether a root is written as a URL.

    Args:
        root: As it was given. A path is none, whatever it is called.
    """
    return isinstance(root, str) and _URL.match(root) is not None


def checked_url(url: str) -> str:
    """Return a URL without a slash at its end and with its scheme in small letters, if nothing secret can be in it.

    A URL gets into saved configs, logs and messages.

    Args:
        url: As it was given.

    Raises:
        UserError: It is no URL, holds a user name, password, query or fragment, chains file systems, or names no place.
    """
    found = _URL.match(url)
    if found is None and "::" not in url:
        shown = "What was given" if "@" in url or not url.isprintable() else f"'{url}'"
        folder = f" Write 'file://{os.path.abspath(url)}' for that folder." if url.startswith(("/", ".")) else ""
        raise UserError(
            f"{shown} is no URL. Allowed is one such as 's3://bucket/folder' or 'gs://bucket/data'.{folder}"
        )
    scheme = found[1].lower() if found else url.partition("::")[0]
    url = scheme + url[len(scheme) :]
    if what := _cannot_be_meant(url):
        raise UserError(
            f"A URL of the scheme '{scheme}' {what}. Allowed is the address of a folder alone; keys come from the"
            " environment or the files of the backend. Write 's3://bucket/folder', say."
        )
    return url.rstrip("/")


def _cannot_be_meant(url: str) -> str:
    """Say why a URL is refused, without a word of it; empty: it is not."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "has brackets around what is no address"
    if "@" in parts.netloc and (parts.scheme not in _ACCOUNT_BEFORE_HOST or parts.password is not None):
        return "holds a user name or password"
    if "?" in url or "#" in url:
        return "holds a query or fragment, where signatures and keys stand"
    if "::" in url:
        return "chains file systems"
    if not url.isprintable() or any(sign.isspace() for sign in url):
        return "holds white space or unprintable signs"
    return "" if (parts.netloc + parts.path).strip("/") else "names no place"


class ObjectFiles:
    """Read and write the files below a URL by their names, such as `shards/r0001-0123456789ab.tar`."""

    def __init__(self, url: str) -> None:
        """Name the place; nothing is asked yet.

        Args:
            url: As `checked_url` allows it.

        Raises:
            UserError: It cannot be used.
        """
        self.url = checked_url(url)
        self.protocol = urlsplit(self.url).scheme

    @property
    def creates_exclusively(self) -> bool:
        """Whether the backend is one that can write a name only where there is none."""
        return self.protocol in _CREATE_EXCLUSIVELY

    def sizes(self, below: str = "") -> dict[str, int]:
        """List all files with their sizes in bytes, by name.

        Args:
            below: Only those of this folder. Empty: all.
        """
        system, base = self._system()
        with self._asking("listed", below or "."):
            system.invalidate_cache()
            try:
                found = system.find(f"{base}/{below}" if below else base, detail=True)
            except FileNotFoundError:
                return {}
        files = {path: about for path, about in found.items() if about.get("type", "file") == "file"}
        # s3fs lists the folder itself where the first file comes while it looks
        return {p[len(base) + 1 :]: int(a["size"]) for p, a in files.items() if p.startswith(f"{base}/") and a["size"]}

    def read(self, name: str, most_bytes: int) -> bytes:
        """Read a small file whole.

        Args:
            name: Of the file.
            most_bytes: What is longer is refused before more of it is read.

        Raises:
            FileNotFoundError: It is not there.
            StoreError: It cannot be read, or is longer.
        """
        system, base = self._system()
        with self._asking("read", name):
            data = bytes(system.cat_file(f"{base}/{name}", start=0, end=most_bytes + 1))
        return self._bounded(name, data, most_bytes)

    def read_part(self, name: str, start: int, size_bytes: int) -> bytes:
        """Read a part of a file; fewer bytes where it ends before.

        Args:
            name: Of the file.
            start: First byte.
            size_bytes: How many.

        Raises:
            FileNotFoundError: It is not there.
            StoreError: It cannot be read.
        """
        system, base = self._system()
        with self._asking("read", name):
            return bytes(system.cat_file(f"{base}/{name}", start=start, end=start + size_bytes))

    def read_many(self, names: Sequence[str], most_bytes: int) -> list[bytes | None]:
        """Read small files, at the same time where the backend can.

        Args:
            names: Of the files.
            most_bytes: Of each, as for `read`.

        Returns:
            The content of each; None: it is not there.
        """
        system, base = self._system()
        paths = [f"{base}/{name}" for name in names]
        with self._asking("read", names[0]):
            found = system.cat_ranges(paths, [0] * len(paths), [most_bytes + 1] * len(paths), on_error="return")
        contents: list[bytes | None] = []
        for name, data in zip(names, found, strict=True):
            if isinstance(data, FileNotFoundError):
                contents.append(None)
                continue
            with self._asking("read", name):
                if isinstance(data, Exception):
                    raise data
            contents.append(self._bounded(name, bytes(data), most_bytes))
        return contents

    def chunks(self, name: str, size_bytes: int) -> Iterator[bytes]:
        """Read a large file piece by piece; the last one is shorter, or there are fewer, where the file was cut.

        Args:
            name: Of the file.
            size_bytes: That it should have; no more of it is read.

        Raises:
            FileNotFoundError: It is not there.
            StoreError: It cannot be read.
        """
        for start in range(0, size_bytes, _CHUNK_BYTES):
            yield self.read_part(name, start, min(_CHUNK_BYTES, size_bytes - start))

    def write(self, name: str, data: bytes) -> None:
        """Write a small file; one that is there is replaced.

        Args:
            name: Of the file.
            data: Its content.
        """
        system, base = self._system()
        with self._asking("written", name):
            if self.protocol in _LOCAL:
                path = Path(f"{base}/{name}")
                make_folder(path.parent)
                write_durably(path, data)
            else:
                system.pipe_file(f"{base}/{name}", data)

    def upload(self, name: str, path: Path) -> None:
        """Write a file from a local one; one that is there is replaced.

        Args:
            name: Of the file.
            path: Whose content it gets.
        """
        system, base = self._system()
        with self._asking("written", name):
            if self.protocol in _LOCAL:
                target = Path(f"{base}/{name}")
                make_folder(target.parent)
                with open(path, "rb") as source, writing(target) as file:
                    shutil.copyfileobj(source, file, _CHUNK_BYTES)
            else:
                system.put_file(str(path), f"{base}/{name}")

    def create(self, name: str, data: bytes) -> bool:
        """Write a file where none of that name is; the store itself decides between two that try.

        Args:
            name: Of the file.
            data: Its content.

        Returns:
            Whether it was written; False: there is one already, and it stays.
        """
        system, base = self._system()
        with self._asking("written", name):
            try:
                if self.protocol in _LOCAL:
                    _create_durably(Path(f"{base}/{name}"), data)
                else:
                    system.pipe_file(f"{base}/{name}", data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in _ALSO_REFUSED and system.exists(f"{base}/{name}"):
                    return False
                raise
        return True

    def _system(self) -> tuple[Any, str]:
        """Return the file system and the path of the root in it; fsspec keeps one for each process and thread."""
        import fsspec  # half a second of imports with some backends, so only where something is at a URL

        try:
            system, path = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"'{self.url}' cannot be used: {error}. Allowed is any URL whose backend of fsspec is installed. "
                "For s3:// write `pip install 'evolvedirector[remote]'`."
            ) from error
        return system, path.rstrip("/")

    def _bounded(self, name: str, data: bytes, most_bytes: int) -> bytes:
        if len(data) > most_bytes:
            raise StoreError(
                f"'{self.url}/{name}' has more than {most_bytes} bytes, as no file of its kind has. Use no root of an"
                " unknown source."
            )
        return data

    @contextlib.contextmanager
    def _asking(self, done: str, name: str) -> Iterator[None]:
        """Name the object in whatever a backend raises; that something is not there is passed on to who reads it."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # each backend has classes of its own, many below none but Exception
            if isinstance(error, FileNotFoundError) and done != "written":
                raise
            told = _SIGNED.sub(r"\1?...", str(error))[:_MOST_TOLD_CHARACTERS] or type(error).__name__
            raise StoreError(
                f"'{self.url}/{name}' cannot be {done}: {told}. Look at the network, and at keys and rights of the"
                " backend; then give the same command again."
            ) from error


def _create_durably(path: Path, data: bytes) -> None:
    """Write a local file whole under a name that must be free: a link is refused where the name is taken."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp.{uuid.uuid4().hex}")
    try:
        write_durably(temporary, data, name_later=True)
        os.link(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
