"""One key has one rate, whoever asks with it."""

import pytest

from evolvedirector.transport import key_limits
from evolvedirector.transport.key_limits import BURST_S, wait_for_slot_s


def test_two_parts_with_one_key_share_the_lower_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_limits.time, "monotonic", lambda: 1000.0)
    where = ("https://api.example.org/shared", "a-key")
    burst = [wait_for_slot_s(*where, 60.0) for _ in range(int(BURST_S))]
    assert burst == [0.0] * int(BURST_S)
    first, second, third = (wait_for_slot_s(*where, rate) for rate in (60.0, 20.0, 60.0))
    assert second - first == 1.0 and third - second == 3.0, "after the lower rate was named, it holds for both"
    assert wait_for_slot_s("https://api.example.org/shared", "another-key", 60.0) == 0.0


def test_no_limit_never_waits() -> None:
    assert [wait_for_slot_s("https://api.example.org/free", "a-key", None) for _ in range(99)] == [0.0] * 99
