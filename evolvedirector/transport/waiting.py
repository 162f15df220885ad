"""How long to wait before the next try: what the service asks for, else full jitter."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
_BODY_WAIT = re.compile(
    r"(?:resets?|try again|retry|available(?: again)?)\s+(?:in|after)\s+~?\s*(\d+(?:\.\d+)?)\s*"
    r"(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m)\b",
    re.IGNORECASE,
)
_DRAWS = random.Random()  # of its own: training draws from the global one, and must not change with the network


def asked_wait_s(headers: Mapping[str, str], body: bytes, now: datetime | None = None) -> float | None:
    """Read how many seconds a service asks to wait.

    Args:
        headers: of the answer, names in lower case: `retry-after-ms`, `retry-after` (seconds or a date).
        body: of the answer: sentences such as `resets in ~30s` or `try again in 250 ms`.
        now: the time that a date is compared with; None for the clock.

    Returns:
        Seconds, or None where the service says nothing.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(?:\.\d{1,6})?", value):
            return float(value) * unit
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    except (TypeError, ValueError, OverflowError, LookupError):  # no date, or one of an absurd year or zone
        found = _BODY_WAIT.search(body[:4096].decode("utf-8", "replace"))
        return None if found is None else float(found[1]) * _seconds_per(found[2].lower())


def backoff_s(attempt: int) -> float:
    """Draw the wait after a failed try: uniform in [0, min(30, 0.5 * 2^attempt)], so that clients do not come in step.

    Args:
        attempt: number of the try that failed, from 0.
    """
    return _DRAWS.uniform(0.0, min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(attempt, 16)))


def spread_s(wait_s: float) -> float:
    """Draw what is added to a wait that was asked for: up to a tenth of it, so that not all come back at once."""
    return _DRAWS.uniform(0.0, 0.1 * wait_s)


def _seconds_per(unit: str) -> float:
    if unit.startswith(("ms", "milli")):
        return 0.001
    return 60.0 if unit.startswith("m") else 1.0
