"""Many pieces of remote work at once, behind a plain iterator."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Opened = TypeVar("Opened")

_DONE = object()


def run_concurrently(
    items: Iterable[Item],
    work: Callable[[Opened, Item], Awaitable[Result]],
    open_client: Callable[[], AbstractAsyncContextManager[Opened]],
    max_in_flight: int,
) -> Iterator[Result]:
    """Yield the result of each item as it finishes, while others are under way in a thread of their own.

    The caller needs no event loop and may have one of its own (a notebook). A caller that stops early cancels what is
    under way. A caller that is slow holds new work back once results for four times `max_in_flight` wait.

    Args:
        items: what to work on; read in the working thread.
        work: works on one item. Its exceptions are not expected: the first one ends everything and is raised here.
        open_client: makes what all pieces of work share; opened and closed in the working thread.
        max_in_flight: pieces of work at the same time.
    """
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    state = _Run(items, work, open_client, max_in_flight, results)
    thread = threading.Thread(target=state.run, name="evolvedirector-requests", daemon=True)
    thread.start()
    try:
        while (outcome := results.get()) is not _DONE:
            if isinstance(outcome, _Failure):
                raise outcome.error
            state.make_room()
            yield outcome[0]
    finally:
        state.cancel()
        thread.join()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Run:
    """The working thread's side: one loop, `max_in_flight` workers that share one iterator."""

    def __init__(self, items: Any, work: Any, open_client: Any, max_in_flight: int, results: Any) -> None:
        self.items, self.work, self.open_client = iter(items), work, open_client
        self.max_in_flight, self.results = max_in_flight, results
        self.loop = asyncio.new_event_loop()
        self.room = asyncio.Semaphore(4 * max_in_flight)
        self.main: asyncio.Task[None] | None = None
        self.cancelled = threading.Event()

    def run(self) -> None:
        try:
            self.loop.run_until_complete(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.results.put(_Failure(error))
        finally:
            # Not asyncio.run: that waits for a stuck name look-up, which no deadline can end.
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            self.results.put(_DONE)

    async def _main(self) -> None:
        self.main = asyncio.current_task()
        if self.cancelled.is_set():
            return
        async with self.open_client() as client:
            workers = [asyncio.ensure_future(self._worker(client)) for _ in range(self.max_in_flight)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self, client: Any) -> None:
        for item in self.items:
            await self.room.acquire()
            self.results.put((await self.work(client, item),))

    def make_room(self) -> None:
        self._in_loop(self.room.release)

    def cancel(self) -> None:
        self.cancelled.set()
        self._in_loop(lambda: self.main and self.main.cancel())

    def _in_loop(self, action: Callable[[], Any]) -> None:
        try:
            self.loop.call_soon_threadsafe(action)
        except RuntimeError:  # the loop is closed: all work is done
            return
