"""Latents of training images on disk, found by the image's content, its size in training, and the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from evolvedirector.records import digest
from evolvedirector.store.keyed_files import KeyedFiles


class LatentFiles:
    """Keep what an encoder says about images, so that each is encoded once and not once per pass.

    Kept are mean and deviation of the raw latents, in float32: a training draws from them as from the encoder itself,
    to the bit. At its size it stops writing, and still reads.

    Args:
        folder: Made at the first write.
        max_bytes: Size of all files together.
        fingerprint: Of the codec; part of every key.
        writes: False reads what is there, and no more.
    """

    def __init__(self, folder: Path, max_bytes: int, fingerprint: str, writes: bool = True) -> None:
        self._files = KeyedFiles(folder, max_bytes, "Latents", "latent_cache_gib", ".latents", writes)
        self._fingerprint = fingerprint

    @property
    def writes(self) -> bool:
        """Whether there is still room, as far as this process knows."""
        return self._files.writes

    def key(self, content: str, height_px: int, width_px: int) -> str:
        """Name the latents of an image.

        Args:
            content: Digest of the encoded image.
            height_px: Of the image as it is trained on.
            width_px: Likewise.
        """
        return digest("latents", self._fingerprint, content, height_px, width_px, length=32)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """List the keys that have no latents."""
        return self._files.missing(keys)

    def read(self, key: str) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Return mean and deviation, float32 [channel, height, width]; None where nobody has written them whole.

        The deviation is None where the encoder is certain.

        Args:
            key: From `key`.
        """
        content = self._files.read(key)
        if content is None:
            return None
        arrays = load(content)
        return arrays["mean"], arrays.get("deviation")

    def write(self, latents: Mapping[str, tuple[np.ndarray, np.ndarray | None]]) -> None:
        """Append latents, all or none of them.

        Args:
            latents: Mean and deviation by key.
        """
        if self.writes:
            self._files.write({key: _packed(mean, deviation) for key, (mean, deviation) in latents.items()})

    def close(self) -> None:
        """Unmap the files; the next read maps them again."""
        self._files.close()


def _packed(mean: np.ndarray, deviation: np.ndarray | None) -> bytes:
    arrays = {"mean": np.ascontiguousarray(mean, np.float32)}
    if deviation is not None:
        arrays["deviation"] = np.ascontiguousarray(deviation, np.float32)
    return save(arrays)
