"""Concurrent work behind a plain iterator: bounded, cancellable, and honest about errors."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from evolvedirector.transport.run_concurrently import run_concurrently


class Room:
    def __init__(self) -> None:
        self.inside = self.most = self.finished = 0
        self.opened = self.closed = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Room"]:
        self.opened = True
        try:
            yield self
        finally:
            await asyncio.sleep(0)
            self.closed = True


async def visit(room: Room, seconds: float) -> float:
    room.inside += 1
    room.most = max(room.most, room.inside)
    try:
        await asyncio.sleep(seconds)
        room.finished += 1
        return seconds
    finally:
        room.inside -= 1


def test_results_come_as_they_finish_and_no_more_are_under_way_than_allowed() -> None:
    room = Room()
    results = list(run_concurrently([0.2, 0.0, 0.01, 0.01], visit, room.open, 2))
    assert sorted(results) == [0.0, 0.01, 0.01, 0.2] and results[-1] == 0.2
    assert room.most == 2 and room.closed


def test_it_works_inside_of_a_running_loop() -> None:
    async def notebook() -> list[float]:
        return list(run_concurrently([0.0, 0.0], visit, Room().open, 2))

    assert asyncio.run(notebook()) == [0.0, 0.0]


def test_a_caller_that_stops_early_cancels_the_rest() -> None:
    room = Room()
    results = run_concurrently([0.0, 60.0, 60.0], visit, room.open, 3)
    assert next(results) == 0.0
    results.close()
    assert room.inside == 0 and room.finished == 1 and room.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "evolvedirector-requests"]


def test_an_error_of_the_work_is_raised_here_after_everything_is_closed() -> None:
    room = Room()

    async def fail(_: Room, item: int) -> int:
        if item == 3:
            raise KeyError("three")
        await asyncio.sleep(0)
        return item

    with pytest.raises(KeyError, match="three"):
        list(run_concurrently(range(10), fail, room.open, 2))
    assert room.closed


def test_an_error_while_opening_is_raised_here() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[Room]:
        raise OSError("no way")
        yield Room()

    with pytest.raises(OSError, match="no way"):
        list(run_concurrently([0.0], visit, broken, 1))


def test_a_slow_caller_holds_new_work_back() -> None:
    room, started = Room(), []

    async def start(_: Room, item: int) -> int:
        started.append(item)
        return item

    results = run_concurrently(range(1000), start, room.open, 2)
    next(results)
    threading.Event().wait(0.2)
    assert len(started) < 20
    assert len(list(results)) == 999


def test_nothing_to_do_is_done_at_once() -> None:
    assert list(run_concurrently([], visit, Room().open, 4)) == []
