"""Content-addressed images, durable before anybody counts on them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evolvedirector.store.durable import make_folders, sync_file, sync_folder, write_durably
from evolvedirector.store.errors import StoreError
from evolvedirector.store.images import EXTENSIONS, sniff_format

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FSYNC_THREADS = 4


class Blobs:
    """Keep each image once, under the sha256 of its bytes: `blobs/ab/abcd....png`."""

    def __init__(self, root: Path) -> None:
        """Open the blobs of a dataset root.

        Args:
            root: The dataset root; its `blobs` folder is made when the first image comes.
        """
        self._folder = Path(root) / "blobs"

    def put(self, data: bytes) -> str:
        """Keep one image; when this returns, a power cut cannot lose it.

        Args:
            data: PNG, JPEG or WebP bytes.

        Returns:
            The sha256 that `get` takes.

        Raises:
            StoreError: If it is no such image or too large.
            DiskFullError: If there is no space; nothing is kept then.
        """
        path = self._path_of(data)
        make_folders([path.parent])
        _write(path, data)
        sync_folder(path.parent)
        return path.stem

    def put_many(self, datas: Sequence[bytes]) -> list[str]:
        """Keep many images, waiting for the disk in a few threads; returns their sha256 in the same order.

        All files come first and then their names: a disk makes names that are already there durable all at once.
        """
        if len(datas) < 2:
            return [self.put(data) for data in datas]
        paths = [self._path_of(data) for data in datas]
        folders = {path.parent for path in paths}
        make_folders(folders)
        with ThreadPoolExecutor(_FSYNC_THREADS, thread_name_prefix="blobs") as pool:
            list(pool.map(_write, paths, datas))
            list(pool.map(sync_folder, folders))
        return [path.stem for path in paths]

    def _path_of(self, data: bytes) -> Path:
        sha256 = hashlib.sha256(data).hexdigest()
        return self._folder / sha256[:2] / f"{sha256}.{sniff_format(data)}"

    def has(self, sha256: str) -> bool:
        """Say whether an image is kept."""
        return self._find(sha256) is not None

    def path(self, sha256: str) -> Path:
        """Name the file of a kept image.

        Raises:
            StoreError: If it is not kept.
        """
        path = self._find(sha256)
        if path is None:
            raise StoreError(
                f"The image {sha256} is not in '{self._folder}'. Put an image there before a sample names it."
            )
        return path

    def get(self, sha256: str) -> bytes:
        """Read an image and check that its bytes still have this sha256.

        Raises:
            StoreError: If it is not kept or was changed on disk.
        """
        path = self.path(sha256)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(f"The file '{path}' no longer has the content its name says. Delete it and buy it again.")
        return data

    def _find(self, sha256: str) -> Path | None:
        if not _SHA256.fullmatch(sha256):  # also keeps names such as ../ away from the disk
            raise StoreError(f"'{sha256}' is no image name. It must be 64 lower-case hex characters (a sha256).")
        for extension in EXTENSIONS:
            path = self._folder / sha256[:2] / f"{sha256}.{extension}"
            if path.exists():
                return path
        return None


def _write(path: Path, data: bytes) -> None:
    """Write the file of an image, whose name is not durable yet."""
    if path.exists():  # perhaps from a process killed between its rename and its fsync
        sync_file(path)
    else:
        write_durably(path, data, name_later=True)
