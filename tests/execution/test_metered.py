"""What a metered executor notes, by a clock that parts move themselves, and what it never sends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from evolvedirector.execution.local import LocalExecutor
from evolvedirector.execution.metered import Asked, Meter, MeteredCluster, MeteredExecutor
from evolvedirector.records import ImageReply, ImageRequest, WriteReply, WriteRequest


class Clock:
    """Seconds that pass when somebody says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """Takes two seconds to load and some for each image; every third one is refused."""

    fingerprint = "slow"

    def __init__(self, clock: Clock, image_s: float) -> None:
        self.clock, self.image_s, self.asked = clock, image_s, 0

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        self.clock.now += 2.0
        for request in requests:
            self.asked += 1
            self.clock.now += self.image_s
            yield ImageReply(request.request_id, "refusal" if self.asked % 3 == 0 else "image")


class Writer:
    """Writes what is asked for."""

    fingerprint = "writer"

    def write(self, requests: Sequence[WriteRequest]) -> Iterator[WriteReply]:
        for request in requests:
            yield WriteReply(request.request_id, tuple(f"text {number}" for number in range(request.count)))


def metered(part: Any, meter: Meter, phase: Any = "teach", name: str = "slow") -> MeteredExecutor:
    local = LocalExecutor({phase: {name: part}})
    executor = MeteredCluster(None, meter).over(local, local.place_of)
    assert isinstance(executor, MeteredExecutor) and executor.unit_of(part) == local.unit_of(part)
    return executor


class Leaving:
    """Takes three seconds to let go of its memory."""

    fingerprint = "leaving"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def close(self) -> None:
        self.clock.now += 3.0


@pytest.mark.parametrize(("elsewhere", "room_s"), [((), 3.0), (("teachers.slow",), 0.0)])
def test_making_room_is_no_time_of_whoever_comes_next(elsewhere: tuple[str, ...], room_s: float) -> None:
    """A part on the cluster needs none, and its local rival keeps its memory."""
    clock = Clock()
    meter, part = Meter(clock=clock), Slow(clock, 1.0)
    local = LocalExecutor({"teach": {"slow": part}, "judge": {"judge": Leaving(clock)}})
    executor = MeteredExecutor(Elsewhere(part) if elsewhere else local, local.place_of, meter, elsewhere)
    assert len(list(executor.ask(part, "generate", images(2)))) == 2
    assert meter.asked == [Asked("teachers.slow", 2, 2, 4.0, 3.0, room_s)] and clock.now == 4.0 + room_s


class Elsewhere:
    """Carries requests to another machine."""

    def __init__(self, part: Slow) -> None:
        self.part = part

    def unit_of(self, part: Any) -> int:
        return 8

    def enter(self, phase: Any) -> None:
        raise AssertionError(f"nobody makes room for {phase}")

    def ask(self, part: Any, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        yield from self.part.generate(requests)


def images(count: int) -> list[ImageRequest]:
    return [ImageRequest(f"r{number}", "a cat", number, 8, 8) for number in range(count)]


@pytest.mark.parametrize("image_s", [0.5, 1.5])
def test_images_and_seconds_are_counted_and_a_slower_part_is_slower(image_s: float) -> None:
    clock = Clock()
    meter, part = Meter(clock=clock), Slow(clock, image_s)
    executor = metered(part, meter)
    for _ in executor.ask(part, "generate", images(6)):
        clock.now += 0.25  # what the round does with each
    assert meter.of("teachers.slow") == [Asked("teachers.slow", 6, 4, 2 + 6 * (image_s + 0.25), 2 + image_s)]
    assert meter.of("judge") == []


def test_a_call_that_fails_or_is_given_up_is_noted_as_far_as_it_came() -> None:
    clock = Clock()
    meter, part = Meter(clock=clock), Slow(clock, 1.0)
    replies = metered(part, meter).ask(part, "generate", images(6))
    assert isinstance(replies, Iterator) and next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert meter.asked == [Asked("teachers.slow", 6, 1, 3.0, 3.0)]


def test_what_goes_wrong_as_a_call_is_given_up_is_told() -> None:
    """As without a meter: the call is closed by whoever closes it, not by the memory it lay in."""

    class Stuck(Slow):
        def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
            try:
                yield from super().generate(requests)
            finally:
                raise OSError("a connection cannot be closed")

    clock = Clock()
    meter, part = Meter(clock=clock), Stuck(clock, 1.0)
    replies = metered(part, meter).ask(part, "generate", images(6))
    assert next(replies)
    with pytest.raises(OSError, match="cannot be closed"):
        replies.close()  # type: ignore[attr-defined]
    assert meter.asked == [Asked("teachers.slow", 6, 1, 3.0, 3.0)]


def test_a_meter_of_a_long_run_keeps_sums_alone() -> None:
    clock = Clock()
    few, part = Meter(clock=clock, keeps_calls=False), Slow(clock, 1.0)
    for _ in range(3):
        list(metered(part, few).ask(part, "generate", images(2)))
    assert few.asked == [] and few.totals() == {"teachers.slow": {"requests": 6, "answers": 4, "seconds": 12.0}}


def test_nobody_is_asked_beyond_a_limit() -> None:
    clock = Clock()
    meter, part = Meter({"teachers.slow": 4}, clock=clock), Slow(clock, 1.0)
    executor = metered(part, meter)
    assert len(list(executor.ask(part, "generate", images(3)))) == 3
    assert len(list(executor.ask(part, "generate", images(3)))) == 1
    assert list(executor.ask(part, "generate", images(3))) == []
    assert part.asked == 4 and meter.withheld == {"teachers.slow": 5}
    assert [asked.requests for asked in meter.asked] == [3, 1], "what was not sent is no call"


def test_a_limit_of_a_writer_counts_its_texts() -> None:
    meter, part = Meter({"writer": 5}), Writer()
    requests = [WriteRequest(f"w{number}", "mutation", None, None, 4, 0) for number in range(3)]
    replies = list(metered(part, meter, "write", "writer").ask(part, "write", requests))
    assert {reply.request_id: len(reply.texts) for reply in replies} == {"w0": 4, "w1": 1, "w2": 0}
    assert all(reply.answered for reply in replies), "what is withheld is no outage"
    assert meter.of("writer")[0].answers == 5 and meter.withheld == {"writer": 7}


class OnCluster:
    """A cluster that notes what becomes of it."""

    placed = ("judge",)

    def __init__(self) -> None:
        self.was: list[str] = []

    def verify(self) -> None:
        self.was.append("verified")

    def over(self, inner: Any, place_of: Any) -> Any:
        self.was.append("asked")
        return inner

    def close(self) -> None:
        self.was.append("closed")


def test_a_cluster_of_the_run_stays_in_its_place() -> None:
    clock, cluster = Clock(), OnCluster()
    meter, part = Meter(clock=clock), Slow(clock, 1.0)
    local = LocalExecutor({"teach": {"slow": part}})
    over = MeteredCluster(cluster, meter)
    over.verify()
    assert len(list(over.over(local, local.place_of).ask(part, "generate", images(2)))) == 2
    over.close()
    assert over.placed == ("judge",) and cluster.was == ["verified", "asked", "closed"]
    assert meter.of("teachers.slow")[0].answers == 2
