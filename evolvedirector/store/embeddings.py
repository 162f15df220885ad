"""Embeddings on their way into a revision, found by what was embedded and by whom: a kill loses none of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from evolvedirector.records import digest
from evolvedirector.store.errors import StoreError
from evolvedirector.store.keyed_files import KeyedFiles

FOLDER = "embeddings"
"""Below the dataset root; it is there only until its content is published."""
_NO_LIMIT_BYTES = 2**63 - 1


class EmbeddingFiles:
    """Keep what an embedder said of texts and images until a revision holds it.

    Groups are appended as they are computed; one that is cut off by a kill does not exist.

    Args:
        root: The dataset root.
        fingerprint: Of the embedder; another one finds nothing of this.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        self._folder = root / FOLDER
        self._fingerprint = fingerprint
        self._files = KeyedFiles(self._folder, _NO_LIMIT_BYTES, "Embeddings", "size", ".embeddings")

    def text_key(self, text: str) -> str:
        """Name what is said of a text."""
        return digest("embedded text", self._fingerprint, text, length=32)

    def image_key(self, sha256: str) -> str:
        """Name what is said of an image, by the sha256 of its encoded bytes."""
        return digest("embedded image", self._fingerprint, sha256, length=32)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """List the keys of which nothing is kept whole: a power cut may have damaged what a kill had spared."""
        return [key for key in keys if self._files.read(key) is None]

    def read(self, key: str) -> dict[str, np.ndarray] | None:
        """Return the arrays of a key by name; None where nobody has written them whole."""
        content = self._files.read(key)
        return None if content is None else load(content)

    def write(self, embedded: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Append a group.

        Args:
            embedded: Arrays by name, by key.

        Raises:
            StoreError: There is no room, or the folder cannot be written.
        """
        packed = {
            key: save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
            for key, arrays in embedded.items()
        }
        self._files.write(packed)
        if not self._files.writes:
            raise StoreError(
                f"The embeddings cannot be kept in '{self._folder}'. It must be a folder with room that can be written."
                " Make room there and give the same command again; what was embedded is kept."
            )

    def close(self) -> None:
        """Unmap the files; the next read maps them again."""
        self._files.close()

    def discard(self) -> None:
        """Delete all that is kept, of every embedder: a revision holds it now, or nobody wants it."""
        self._files.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._files = KeyedFiles(self._folder, _NO_LIMIT_BYTES, "Embeddings", "size", ".embeddings")
