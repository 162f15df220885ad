"""The rate at which requests go out with one key, held across rounds, teachers and judges of a process."""

from __future__ import annotations

import threading
import time

from evolvedirector.records import digest

BURST_S = 6.0
"""After a pause, this many seconds' worth of requests may go out at once."""
_lock = threading.Lock()
_rates: dict[str, KeyRate] = {}


class KeyRate:
    """Hand out slots in time at a stated rate.

    Each call of a teacher runs an event loop of its own, so the rate is bound to no loop, as the usual limiter classes
    are: a caller is told how long to sleep.

    Args:
        requests_per_minute: over 0.
    """

    def __init__(self, requests_per_minute: float) -> None:
        self.interval_s = 60.0 / requests_per_minute
        self._next_slot = 0.0
        self._lock = threading.Lock()

    def wait_s(self) -> float:
        """Take the next slot and say how many seconds it is away."""
        with self._lock:
            now = time.monotonic()
            slot = max(self._next_slot, now - BURST_S + self.interval_s)
            self._next_slot = slot + self.interval_s
            return max(0.0, slot - now)


def wait_for_slot_s(base_url: str, key: str, requests_per_minute: float | None) -> float:
    """Take the next slot of a key at a service and say how many seconds it is away.

    Args:
        base_url: address of the service.
        key: only its digest is kept.
        requests_per_minute: the lowest that was ever given for the key counts; None for no limit.
    """
    if requests_per_minute is None:
        return 0.0
    name = digest("rate", base_url, key)
    with _lock:
        rate = _rates.setdefault(name, KeyRate(requests_per_minute))
        rate.interval_s = max(rate.interval_s, 60.0 / requests_per_minute)  # two parts with one key: the lower rate
    return rate.wait_s()
