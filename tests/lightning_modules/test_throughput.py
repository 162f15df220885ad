"""Images per second, over windows of a second or more."""

import time

import pytest

from evolvedirector.lightning_modules.throughput import Throughput


def test_a_rate_is_told_once_a_window_and_the_time_before_it_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    throughput = Throughput()
    throughput.start()
    now[0] += 0.5
    assert throughput.count(8) is None
    now[0] += 1.5
    assert throughput.count(8) == 8.0
    now[0] += 60.0  # a round between two epochs
    throughput.start()
    now[0] += 2.0
    assert throughput.count(4) == 2.0
