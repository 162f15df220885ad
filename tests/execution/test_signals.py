"""SIGTERM in a round: remembered, passed on, insisted on, and every handler put back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from evolvedirector.execution import signals
from evolvedirector.execution.signals import TermRequest, command_to_continue, handlers


@pytest.fixture
def term() -> Iterator[TermRequest]:
    request = TermRequest()
    yield request
    request.stop_listening()


def send() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_request_is_remembered_after_the_handler_is_gone(term: TermRequest) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with term.handled():
        assert term.stop_reason is None
        term.end_if_received()
        send()
        assert term.stop_reason == "SIGTERM received"
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(SystemExit) as ending:
        term.end_if_received(KeyError("cause"))
    assert ending.value.code == 143
    assert isinstance(ending.value.__cause__, KeyError)


def test_alone_a_second_signal_ends_at_once(term: TermRequest) -> None:
    with pytest.raises(SystemExit) as ending, term.handled():
        send()
        send()
        pytest.fail("the second signal was ignored")
    assert ending.value.code == 143


def test_alone_it_insists_after_a_grace_period(term: TermRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "TERM_GRACE_S", 0.1)
    began = time.monotonic()
    with pytest.raises(SystemExit), term.handled():
        send()
        time.sleep(10)
    assert time.monotonic() - began < 5


def test_a_round_that_ends_in_time_is_not_insisted_on(term: TermRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "TERM_GRACE_S", 0.2)
    arrived: list[int] = []
    with handlers((signal.SIGTERM,), lambda number, frame: arrived.append(number)):
        with term.handled():
            send()
        time.sleep(0.4)
    assert arrived == []


def test_peers_are_told_instead(term: TermRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "TERM_GRACE_S", 0.05)
    told: list[str] = []
    with term.handled(lambda: told.append("end")):
        send()
        send()
        time.sleep(0.2)  # the heartbeat insists, not this process
    assert told == ["end", "end"]
    assert term.received


def test_another_thread_sees_a_signal_that_no_handler_of_python_could_take(term: TermRequest) -> None:
    term.listen()
    assert not term.arrived()
    with handlers((signal.SIGTERM,), lambda number, frame: None):
        send()
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.extend((term.arrived(), term.arrived())))
    thread.start()
    thread.join()
    assert seen == [True, False]
    term.stop_listening()
    assert not term.arrived()


def test_listening_gives_the_wakeup_descriptor_back(term: TermRequest) -> None:
    ours = os.pipe()
    os.set_blocking(ours[1], False)
    signal.set_wakeup_fd(ours[1])
    try:
        term.listen()
        term.listen()  # a second round begins where the first one broke off
        term.stop_listening()
    finally:
        assert signal.set_wakeup_fd(-1) == ours[1]
        for end in ours:
            os.close(end)


def test_outside_of_the_main_thread_nothing_changes(term: TermRequest) -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def work() -> None:
        term.listen()
        with term.handled():
            found.append(signal.getsignal(signal.SIGTERM))
        term.stop_listening()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["fit", "-c", "a b.yaml"], "fit -c 'a b.yaml' --ckpt_path last"),
        (["fit", "--ckpt_path", "x.ckpt", "-c", "r.yaml"], "fit -c r.yaml --ckpt_path last"),
        (["fit", "--ckpt_path=x.ckpt"], "fit --ckpt_path last"),
        (["validate", "-c", "r.yaml"], "validate -c r.yaml"),
    ],
)
def test_the_command_that_continues(words: list[str], command: str) -> None:
    assert command_to_continue(words) == f"Go on with: evolvedirector {command}"
