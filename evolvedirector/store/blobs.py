"""Content-addressed files, durable before anybody counts on them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from evolvedirector.records import FileRef
from evolvedirector.store.durable import make_folders, sync_file, sync_folder, write_durably
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import MEDIA_TYPES, checked_ref, extension_of
from evolvedirector.store.images import sniff_format

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FSYNC_THREADS = 4


class Blobs:
    """Keep each image and further file once, under the sha256 of its bytes: `blobs/ab/abcd....png`."""

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
        return self._put([self._path_of(data) for data in datas], datas)

    def put_files(self, files: Sequence[FileRef]) -> list[FileRef]:
        """Keep further files of samples (masks, sources, embeddings), each after it was read whole.

        Args:
            files: Each with its content.

        Returns:
            The same files as a `Sample` names them: without their content, with the size of images.

        Raises:
            StoreError: If one is of a kind that is not kept, damaged, or not what its description says; nothing is
                kept then.
            DiskFullError: If there is no space.
        """
        checked = [checked_ref(file) for file in files]
        contents = [file.content for file in checked if file.content is not None]
        paths = [self._named(file.sha256, extension_of(file.media_type)) for file in checked]
        self._put(paths, contents)
        return [replace(file, content=None) for file in checked]

    def _put(self, paths: Sequence[Path], datas: Sequence[bytes]) -> list[str]:
        folders = {path.parent for path in paths}
        make_folders(folders)
        with ThreadPoolExecutor(_FSYNC_THREADS, thread_name_prefix="blobs") as pool:
            list(pool.map(_write, paths, datas))
            list(pool.map(sync_folder, folders))
        return [path.stem for path in paths]

    def _path_of(self, data: bytes) -> Path:
        return self._named(hashlib.sha256(data).hexdigest(), sniff_format(data))

    def _named(self, sha256: str, extension: str) -> Path:
        return self._folder / sha256[:2] / f"{sha256}.{extension}"

    def has(self, sha256: str) -> bool:
        """Say whether a file is kept."""
        return self._find(sha256) is not None

    def is_whole(self, sha256: str) -> bool:
        """Say whether a file is kept with its own content; one that was changed is taken away, to be kept anew.

        Only the writer of a root asks.
        """
        path = self._find(sha256)
        if path is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            path.unlink()
            return False
        return path is not None

    def path(self, sha256: str) -> Path:
        """Say where a file is kept.

        Raises:
            StoreError: If it is not kept.
        """
        path = self._find(sha256)
        if path is None:
            raise StoreError(f"The file {sha256} is not in '{self._folder}'. Put it there before a sample names it.")
        return path

    def get(self, sha256: str) -> bytes:
        """Read a file and check that its bytes still have this sha256.

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
            raise StoreError(f"'{sha256}' is no name of a file. It must be 64 lower-case hex characters (a sha256).")
        for extension in MEDIA_TYPES:
            path = self._named(sha256, extension)
            if path.exists():
                return path
        return None


def _write(path: Path, data: bytes) -> None:
    """Write a file whose name is not durable yet."""
    if path.exists():  # perhaps from a process killed between its rename and its fsync
        sync_file(path)
    else:
        write_durably(path, data, name_later=True)
