"""An executor that notes who was asked for how much and how long it took, and that asks nobody beyond a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from evolvedirector.execution.executor import Cluster, Executor, Phase
from evolvedirector.execution.pool import place_key
from evolvedirector.records import ImageReply, WriteReply, WriteRequest
from evolvedirector.records.part import Part


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of a part with a unit of requests, or less.

    Args:
        place: Where the part is written: `judge`, `writer`, `teachers.NAME`, `rewards.NAME`, `embedder`, `student`.
        requests: Handed to it.
        answers: What its replies came to: images of a teacher, texts of a writer, replies of all others.
        seconds: From the call until its last reply was taken, what the round does with each on the way included.
        first_s: Until the first reply, with the loading of what it needs. None: there was none.
        room_s: Before the call, in which others let go of memory for it.
    """

    place: str
    requests: int
    answers: int
    seconds: float
    first_s: float | None
    room_s: float = 0.0


def answers_in(reply: Any) -> int:
    """Count what a reply is worth: an image, its texts, or one.

    Args:
        reply: Of any part.
    """
    if isinstance(reply, ImageReply):
        return int(reply.status == "image")
    return len(reply.texts) if isinstance(reply, WriteReply) else 1


class Meter:
    """Collect what all parts of a round were asked, over any number of rounds and threads.

    Args:
        limits: Most requests of a part, by its place, and texts of a writer; what is over them is not sent. Places
            that are not named have no limit.
        working: Entered with a phase while somebody works in it.
        clock: Seconds.
        keeps_calls: Keep each call, and not `totals` alone: a run of weeks makes more of them than are worth their
            memory.
    """

    def __init__(
        self,
        limits: Mapping[str, int] | None = None,
        working: Callable[[Phase], AbstractContextManager[Any]] = lambda phase: nullcontext(),
        clock: Callable[[], float] = time.monotonic,
        keeps_calls: bool = True,
    ) -> None:
        self.asked: list[Asked] = []
        self.withheld: dict[str, int] = {}
        """What a limit kept from being sent, by place."""
        self.working = working
        self.clock = clock
        self._keeps_calls = keeps_calls
        self._totals: dict[str, dict[str, float]] = {}
        self._left = dict(limits or {})
        self._lock = threading.Lock()

    def allowed(self, place: str, requests: Sequence[Any]) -> Sequence[Any]:
        """Return those of the requests that a limit leaves, and count them as sent.

        Args:
            place: Of the part.
            requests: For it.
        """
        with self._lock:
            if place not in self._left:
                return requests
            sent: list[Any] = []
            for request in requests:
                count = request.count if isinstance(request, WriteRequest) else 1
                allowed = min(count, self._left[place])
                if allowed:
                    sent.append(replace(request, count=allowed) if allowed < count else request)
                self._left[place] -= allowed
                if allowed < count:
                    self.withheld[place] = self.withheld.get(place, 0) + count - allowed
            return sent

    def note(self, asked: Asked) -> None:
        """Keep what came of a call.

        Args:
            asked: The call.
        """
        with self._lock:
            if self._keeps_calls:
                self.asked.append(asked)
            of = self._totals.setdefault(asked.place, {"requests": 0, "answers": 0, "seconds": 0.0})
            of["requests"] += asked.requests
            of["answers"] += asked.answers
            of["seconds"] += asked.seconds

    def of(self, place: str) -> list[Asked]:
        """Return the calls of a part, in order of their ends.

        Args:
            place: Of the part.
        """
        with self._lock:
            return [asked for asked in self.asked if asked.place == place]

    def totals(self) -> dict[str, dict[str, float]]:
        """Add up requests, answers and seconds of each part, by its place, in the order of first calls."""
        with self._lock:
            return {place: dict(of) for place, of in self._totals.items()}


def withheld_replies(requests: Sequence[Any], sent: Sequence[Any]) -> Iterator[WriteReply]:
    """Yield an empty reply for each request to a writer that is not sent: without one, it would count as an outage.

    Args:
        requests: For a part.
        sent: Those of them that a limit leaves.
    """
    names = {request.request_id for request in sent if isinstance(request, WriteRequest)}
    for request in requests:
        if isinstance(request, WriteRequest) and request.request_id not in names:
            yield WriteReply(request.request_id, refusal="over the limit of a measurement")


class MeteredExecutor:
    """Carry requests through another executor, and let a meter note them.

    Args:
        inner: Carries them.
        place_of: Returns phase and name of a part.
        meter: Notes.
        elsewhere: Places of parts that work on a cluster, where nobody has to make room for them here.
    """

    def __init__(
        self,
        inner: Executor,
        place_of: Callable[[Part], tuple[Phase, str]],
        meter: Meter,
        elsewhere: Collection[str] = (),
    ) -> None:
        self._inner = inner
        self._place_of = place_of
        self._meter = meter
        self._elsewhere = elsewhere

    def unit_of(self, part: Part) -> int:
        """Return the unit of the executor below.

        Args:
            part: Who is asked.
        """
        return self._inner.unit_of(part)

    def enter(self, phase: Phase) -> None:
        """Begin a phase there.

        Args:
            phase: Begins.
        """
        self._inner.enter(phase)

    def ask(self, part: Part, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Ask, and note how much came back and when.

        Args:
            part: Who is asked.
            method: Of the part.
            requests: A unit of work, or less; what the meter's limit does not leave stays without a reply, but for
                a writer's, which is empty.
        """
        meter, (phase, name) = self._meter, self._place_of(part)
        place = place_key((phase, name)) or name
        sent = meter.allowed(place, requests)
        yield from withheld_replies(requests, sent)
        if not sent and requests:
            return
        waited = meter.clock()
        if place not in self._elsewhere:
            self._inner.enter(phase)  # the call would begin with it
        began, first_s, answers = meter.clock(), None, 0
        try:
            with meter.working(phase):
                replies = self._inner.ask(part, method, sent)
                with closing(replies) if isinstance(replies, Generator) else nullcontext():  # what that raises is told
                    for reply in replies:
                        first_s = meter.clock() - began if first_s is None else first_s
                        answers += answers_in(reply)
                        yield reply
        finally:
            meter.note(Asked(place, len(sent), answers, meter.clock() - began, first_s, began - waited))


class MeteredCluster:
    """Stand in the place of a run's cluster, so that all of its requests pass by a meter.

    Args:
        cluster: Of the run. None: all parts work here.
        meter: Notes.
    """

    def __init__(self, cluster: Cluster | None, meter: Meter) -> None:
        self._cluster = cluster
        self._meter = meter

    @property
    def placed(self) -> Any:
        """Return the places of the parts that work there."""
        return {} if self._cluster is None else self._cluster.placed

    def verify(self) -> None:
        """Raise one clear error where the cluster cannot be reached."""
        if self._cluster is not None:
            self._cluster.verify()

    def over(self, inner: Executor, place_of: Callable[[Part], tuple[Phase, str]]) -> Executor:
        """Return a metered executor over that of the run.

        Args:
            inner: Carries what is not placed on the cluster.
            place_of: Returns phase and name of a part.
        """
        own = inner if self._cluster is None else self._cluster.over(inner, place_of)
        return MeteredExecutor(own, place_of, self._meter, self.placed)

    def close(self) -> None:
        """Let go of the cluster."""
        if self._cluster is not None:
            self._cluster.close()
