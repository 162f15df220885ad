"""Signs of life between two ranks of one process: what ends a round, and that slowness does not."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from evolvedirector.execution import heartbeat as module
from evolvedirector.execution.heartbeat import Heartbeat


def wait_for(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.01)
    return bool(condition())


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Beat fast, and note an end of the process instead of having it."""
    codes: list[int] = []
    monkeypatch.setattr(module, "BEAT_S", 0.04)
    monkeypatch.setattr(module, "SILENT_AFTER_S", 0.6)
    monkeypatch.setattr(module, "GRACE_S", 0.3)
    monkeypatch.setattr(module.os, "_exit", codes.append)
    return codes


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def ranks(ended: list[int], port: int) -> Iterator[tuple[Heartbeat, Heartbeat]]:
    both = Heartbeat("127.0.0.1", port, 0, 2), Heartbeat("127.0.0.1", port, 1, 2)
    yield both
    for one in reversed(both):
        one.stop()


def test_slow_ranks_live_and_rounds_repeat(ranks: tuple[Heartbeat, Heartbeat], ended: list[int]) -> None:
    for _ in range(2):
        for one in ranks:
            one.start()
        time.sleep(1.0)  # longer than the silence that counts as death: the thread beats on
        assert [one.reason for one in ranks] == [None, None]
        for one in reversed(ranks):
            one.stop()
    assert ended == []


def test_a_reason_reaches_every_rank_and_ends_those_that_hang(
    ranks: tuple[Heartbeat, Heartbeat], ended: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    for one in ranks:
        one.start()
    ranks[1].announce("rank 1: the judge broke")
    assert wait_for(lambda: ranks[0].reason and ranks[1].reason)
    assert ranks[0].reason == "rank 1: the judge broke"
    assert wait_for(lambda: len(ended) == 2)
    assert ended == [1, 1]
    assert "[rank 0] ends: rank 1: the judge broke" in capsys.readouterr().err


def test_a_silent_peer_is_named(ranks: tuple[Heartbeat, Heartbeat]) -> None:
    ranks[0].start()
    assert wait_for(lambda: ranks[0].reason)
    assert "rank 1 has been silent" in (ranks[0].reason or "")


def test_a_rank_that_is_told_to_end_tells_the_others(ended: list[int], port: int) -> None:
    told = threading.Event()
    both = Heartbeat("127.0.0.1", port, 0, 2, told.is_set), Heartbeat("127.0.0.1", port, 1, 2)
    for one in both:
        one.start()
    told.set()
    assert wait_for(lambda: both[1].reason)
    assert both[1].reason == "rank 0 received SIGTERM"
    for one in reversed(both):
        one.stop()


def test_a_rank_that_ends_tells_its_reason_first_and_leaves_the_store(
    ranks: tuple[Heartbeat, Heartbeat], ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_S", 60.0)  # the next beat would come too late
    for one in ranks:
        one.start()
    ranks[1].announce("rank 1: the teacher broke")
    ranks[1]._fall_silent()
    assert ranks[0]._exchange(1, {}) == "rank 1: the teacher broke"
    assert not any(thread.name == "heartbeat _talk" for thread in ranks[1]._threads if thread.is_alive())
    assert ended == []


def test_a_rank_that_ends_does_not_wait_for_a_store_that_hangs(
    ranks: tuple[Heartbeat, Heartbeat], ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, release = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        inside.set()
        release.wait(20)

    monkeypatch.setattr(ranks[1], "_exchange", hang)
    ranks[1].start()
    assert inside.wait(5)
    ranks[1]._fall_silent()
    assert ended == [1]
    release.set()
