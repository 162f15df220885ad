"""What all requests with one key share in a process: the rate, a pause that the service asked for, a closed door."""

from __future__ import annotations

import threading
import time

from evolvedirector.records import digest
from evolvedirector.transport.fault import TransportFault

_lock = threading.Lock()
_limits: dict[tuple[str, str], KeyLimits] = {}


class KeyLimits:
    """Space out requests and remember that a key was denied.

    Each call of a teacher runs an event loop of its own, so these limits are bound to no loop (as the usual limiter
    classes are): a caller is told how long to sleep. The first requests go out at once, as many as fit into six
    seconds, and later ones at the stated rate.

    Args:
        requests_per_minute: None for no limit.
    """

    def __init__(self, requests_per_minute: float | None) -> None:
        self.interval_s = 0.0 if requests_per_minute is None else 60.0 / requests_per_minute
        self.burst_s = 6.0
        self.denied: TransportFault | None = None
        self._next_slot = 0.0
        self._lock = threading.Lock()

    def wait_s(self) -> float:
        """Take the next slot and say how many seconds it is away."""
        with self._lock:
            now = time.monotonic()
            slot = max(self._next_slot, now - self.burst_s + self.interval_s if self.interval_s else now)
            self._next_slot = slot + self.interval_s
            return max(0.0, slot - now)

    def deny(self, fault: TransportFault) -> None:
        """Let every later request fail at once; the first reason is kept."""
        with self._lock:
            self.denied = self.denied or fault

    def check(self) -> None:
        """Raise the first denial, if there was one."""
        if self.denied is not None:
            first = self.denied
            raise TransportFault("denied", first.reason, first.status, first.code)


def key_limits(base_url: str, key: str, requests_per_minute: float | None) -> KeyLimits:
    """Return the limits of a key at a service, the same for every client of this process.

    Args:
        base_url: address of the service.
        key: only its digest is kept; a replaced key starts afresh.
        requests_per_minute: None for no limit.
    """
    name = (base_url, digest("key limits", base_url, key, repr(requests_per_minute)))
    with _lock:
        return _limits.setdefault(name, KeyLimits(requests_per_minute))


def forget_denials(base_url: str) -> None:
    """Open the doors of a service again: a preflight asks anew whether its keys are good.

    Args:
        base_url: address of the service.
    """
    with _lock:
        for (address, _), limits in _limits.items():
            if address == base_url:
                limits.denied = None
