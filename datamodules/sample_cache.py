"""Decoded samples kept in memory: a small live set is read and decoded once, not once per pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MAX_CACHE_BYTES = 256 * 2**20


class SampleCache:
    """Keep decoded samples by key until the space is used up.

    Nothing is evicted while a revision is read: every pass goes through all samples, so the least recently used one is
    exactly the one that comes next.
    """

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        """Start empty.

        Args:
            max_bytes: Space for images, per process.
        """
        self._left_bytes = max_bytes
        self._samples: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        """Look a sample up."""
        return self._samples.get(key)

    def add(self, sample: dict[str, Any]) -> None:
        """Keep a decoded sample if there is space."""
        size = sample["image"].nbytes
        if size <= self._left_bytes and sample["key"] not in self._samples:
            self._left_bytes -= size
            self._samples[sample["key"]] = sample

    def keep_only(self, keys: Iterable[str]) -> None:
        """Make space: forget samples that the revision does not hold."""
        wanted = set(keys)
        for key in [key for key in self._samples if key not in wanted]:
            self._left_bytes += self._samples.pop(key)["image"].nbytes
