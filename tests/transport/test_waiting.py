"""How long a service asks to wait, in the ways in which services say so."""

from datetime import UTC, datetime

import pytest

from evolvedirector.transport.waiting import MAX_BACKOFF_S, asked_wait_s, backoff_s, spread_s

NOON = datetime(2026, 1, 5, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, b"", 7.0),
        ({"retry-after": "0.25"}, b"", 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, b"", 1.5),
        ({"retry-after": "Mon, 05 Jan 2026 12:00:30 GMT"}, b"", 30.0),
        ({"retry-after": "Mon, 05 Jan 2026 11:00:00 GMT"}, b"", 0.0),
        ({}, b'{"detail": "Your rate limit resets in ~30s."}', 30.0),
        ({}, b"Please try again in 250ms.", 0.25),
        ({}, b"try again in 2 minutes", 120.0),
        ({}, b"Retry after 1.5 seconds", 1.5),
        ({"retry-after": "soon"}, b"", None),
        ({"retry-after": "-5"}, b"", None),
        ({"retry-after": "nan"}, b"", None),
        ({"retry-after": f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT"}, b"", None),
        ({"retry-after": "Fri, 31 Dec 2027 23:59:59 -9999"}, b"", None),
        ({"retry-after": f"Fri, 31 Dec 2027 23:59:59 +{'9' * 30}"}, b"", None),
        ({}, b"too many requests", None),
        ({}, b"\xff\xfe", None),
    ],
)
def test_what_a_service_asks_for_is_read(headers: dict, body: bytes, seconds: float | None) -> None:
    assert asked_wait_s(headers, body, NOON) == seconds


def test_full_jitter_spreads_over_the_whole_range_and_stays_bounded() -> None:
    draws = [backoff_s(3) for _ in range(400)]  # uniform in [0, 4]
    assert min(draws) < 0.5 < 3.5 < max(draws) <= 4.0
    assert max(backoff_s(10_000) for _ in range(100)) <= MAX_BACKOFF_S
    assert all(0.0 <= spread_s(10.0) <= 1.0 for _ in range(100))
