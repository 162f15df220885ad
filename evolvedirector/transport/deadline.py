"""One end for a whole piece of work, whatever it is doing then, and what is known of its cost.

Not the timeouts of a client or a retry library: they bound single requests, while queueing, waiting, retries, polls and
downloads together must end in time, and what may have been paid must be known then.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from evolvedirector.transport.fault import TransportFault


@dataclass
class Work:
    """One piece of work: when it must end, and whether it may have been paid without our seeing the result."""

    end: float
    """On the clock of `time.monotonic`."""
    maybe_paid: bool = False
    """A request was sent whose outcome is unknown."""


_work: ContextVar[Work | None] = ContextVar("work", default=None)


@asynccontextmanager
async def ends_at(end: float) -> AsyncIterator[Work]:
    """End what runs inside at a time on the monotonic clock: waits, tries and slow bodies alike.

    Everything inside finds the end by `end_of_work`, so that nobody starts a wait that leads past it. Inside of
    another `ends_at`, the earlier end holds.

    Args:
        end: on the clock of `time.monotonic`.

    Raises:
        TransportFault: `deadline`.
    """
    outer = _work.get()
    if outer is not None and outer.end <= end:
        yield outer
        return
    work = Work(end)
    token = _work.set(work)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(loop.time() + end - time.monotonic()):
            yield work
    except TimeoutError:
        raise TransportFault("deadline", "no usable answer before the deadline", maybe_paid=work.maybe_paid) from None
    except TransportFault as fault:
        fault.maybe_paid |= work.maybe_paid
        raise
    finally:
        _work.reset(token)
        if outer is not None:
            outer.maybe_paid |= work.maybe_paid


def end_of_work() -> float:
    """Say when the work that runs now must end, on the monotonic clock; infinite outside of `ends_at`."""
    work = _work.get()
    return math.inf if work is None else work.end
