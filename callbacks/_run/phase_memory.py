"""The most memory of each phase of a loop, also where phases overlap."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SAMPLE_S = 0.01
"""Between two looks at what the process holds, on a CPU; a GPU counts for itself."""
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """Return the main memory that this process holds now, in bytes; None where the system does not say."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):  # not Linux
        return None


class PhaseMemory:
    """Note the most memory while somebody works in a phase: what torch has taken on a GPU, or the process in all.

    What lies there at that time counts, whoever brought it: in phases that overlap, both count both. Use it as a
    context.

    Args:
        device: Of the student.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak_bytes: dict[str, int] = {}
        """By phase; a phase in which nobody worked here is missing."""
        self._device = device
        self._active: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._sampler: threading.Thread | None = None

    @property
    def kind(self) -> str:
        """Say in words what is counted."""
        return "device memory" if self._device.type == "cuda" else "resident memory of the process"

    def __enter__(self) -> PhaseMemory:
        if self._device.type != "cuda" and resident_bytes() is not None:
            self._sampler = threading.Thread(target=self._sample, name="memory by phase", daemon=True)
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._sampler is not None:
            self._sampler.join()

    def begin(self, phase: str) -> None:
        """Say that somebody begins to work in a phase.

        Args:
            phase: Its name in reports.
        """
        with self._lock:
            self._take()
            self._active[phase] += 1
            self._take()

    def end(self, phase: str) -> None:
        """Say that somebody has ended there.

        Args:
            phase: Its name in reports.
        """
        with self._lock:
            self._take()
            self._active[phase] -= 1

    @contextmanager
    def working(self, phase: str) -> Iterator[None]:
        """Work in a phase for a while.

        Args:
            phase: Its name in reports.
        """
        self.begin(phase)
        try:
            yield
        finally:
            self.end(phase)

    def _take(self) -> None:
        """Book what was taken since the last time to everybody who was at work; under the lock."""
        if self._device.type == "cuda":
            taken: int | None = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            taken = resident_bytes()
        if taken is None:
            return
        for phase in +self._active:
            self.peak_bytes[phase] = max(self.peak_bytes.get(phase, 0), taken)

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            with self._lock:
                self._take()
