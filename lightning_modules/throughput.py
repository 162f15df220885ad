"""How many images a training reads in a second."""

from __future__ import annotations

import time


class Throughput:
    """Count images over windows of a second or more; what happens between epochs is no training."""

    def __init__(self) -> None:
        self._images = 0
        self._started = 0.0

    def start(self) -> None:
        """Begin a window."""
        self._images, self._started = 0, time.perf_counter()

    def count(self, images: int) -> float | None:
        """Count images of one step.

        Args:
            images: Over all ranks.

        Returns:
            Images per second when the window has lasted over a second, and a new one begins; None before.
        """
        self._images += images
        elapsed_s = time.perf_counter() - self._started
        if elapsed_s <= 1:
            return None
        rate = self._images / elapsed_s
        self.start()
        return rate
