"""The circuit breaker: after a key was denied, nothing more is sent with it."""

from __future__ import annotations

import threading
import weakref

from evolvedirector.records import digest
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.transport.fault import TransportFault

_lock = threading.Lock()
_breakers: dict[int, Breaker] = {}


class Breaker:
    """Remember the first denial of a key, so that everything after it fails at once, with the same reason."""

    def __init__(self) -> None:
        self._first: TransportFault | None = None
        self._key_digest = ""

    def trip(self, fault: TransportFault, key: str) -> None:
        """Close the door for a key; the first reason is kept.

        Args:
            fault: `denied`.
            key: only its digest is kept; a replaced key starts afresh.
        """
        with _lock:
            if self._first is None or self._key_digest != digest(key):
                self._first, self._key_digest = fault, digest(key)

    def check(self, key: str) -> None:
        """Raise the first denial of a key, if there was one.

        Args:
            key: about to be used.

        Raises:
            TransportFault: `denied`.
        """
        first = self._first
        if first is not None and self._key_digest == digest(key):
            raise TransportFault("denied", first.reason, first.status, first.code)

    def reset(self) -> None:
        """Open the door again: a preflight asks anew whether the key is good."""
        with _lock:
            self._first = None


def breaker_of(endpoint: Endpoint) -> Breaker:
    """Return the breaker of an endpoint, the same as long as that very object lives.

    Whoever holds the endpoint (a teacher, a judge) opens a client per call, and all of them share the breaker; another
    teacher made later, after the account was repaired, has its own.

    Args:
        endpoint: by identity, not by value.
    """
    name = id(endpoint)
    with _lock:
        if name not in _breakers:
            _breakers[name] = Breaker()
            weakref.finalize(endpoint, _breakers.pop, name, None).atexit = False
        return _breakers[name]
