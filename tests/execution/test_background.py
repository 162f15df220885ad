"""Work in a thread beside training: errands, failures, and how it is ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from evolvedirector.errors import RunError
from evolvedirector.evolution.host import StudentPart
from evolvedirector.execution.background import BackgroundExecutor, BackgroundTask
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.records import ImageReply, ImageRequest
from tests.toys import ToyTeacher, flat_png

REQUESTS = [ImageRequest(f"r{number}", "tone 9", number, 8, 8) for number in range(4)]


def never() -> None:
    """Nobody asks to stop."""


class Slow(ToyTeacher):
    """Waits at its second request until it is let go; notes how it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.at_second, self.go_on, self.was_closed = threading.Event(), threading.Event(), False

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        try:
            for number, reply in enumerate(super().generate(requests)):
                if number == 1:
                    self.at_second.set()
                    assert self.go_on.wait(10)
                yield reply
        finally:
            self.was_closed = len(self.asked) < len(requests)


def world(teacher: ToyTeacher, drawn_in: list[int] | None = None) -> tuple[LocalExecutor, StudentPart, LocalExecutor]:
    """What works in the thread, the student, and what draws with it where training happens."""

    def draw(requests: Sequence[ImageRequest]) -> list[bytes]:
        if drawn_in is not None:
            drawn_in.append(threading.get_ident())
        return [flat_png(7) for _ in requests]

    student = StudentPart(draw, chunk=4)
    here = LocalExecutor({"render": {"student": student}})
    return LocalExecutor({"render": {"student": student}, "teach": {"toy": teacher}}), student, here


class Where(ToyTeacher):
    """Notes in which thread it works."""

    thread = 0

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        self.thread = threading.get_ident()
        yield from super().generate(requests)


def test_the_student_draws_in_the_main_thread_and_all_others_work_in_their_own() -> None:
    drawn_in: list[int] = []
    teacher = Where()
    inner, student, here = world(teacher, drawn_in)

    def work(task: BackgroundTask[int]) -> int:
        executor = BackgroundExecutor(inner, student, 6, task)
        assert executor.unit_of(student) == 6 and executor.unit_of(teacher) == 32
        drawn = list(executor.ask(student, "generate", REQUESTS[:3]))
        task.release()
        return len(drawn) + len(list(executor.ask(teacher, "generate", REQUESTS)))

    task = BackgroundTask(work, "test")
    task.serve(here, never, to_the_end=False)
    assert drawn_in == [threading.get_ident()]
    task.serve(here, never, to_the_end=True)
    assert task.result() == 3 + 4
    assert teacher.thread not in (0, threading.get_ident())


def test_who_waits_for_errands_alone_leaves_while_the_work_goes_on() -> None:
    inner, _, here = world(teacher := Slow())
    task = BackgroundTask(lambda task: (task.release(), list(inner.ask(teacher, "generate", REQUESTS)))[1], "test")
    task.serve(here, never, to_the_end=False)
    assert task.result() is None and not task.is_over
    teacher.go_on.set()
    task.serve(here, never, to_the_end=True)
    assert len(task.result() or ()) == 4


def test_a_failure_of_the_work_is_raised_where_its_result_is_asked_for() -> None:
    def work(task: BackgroundTask[None]) -> None:
        raise ConnectionError("the line broke")

    task = BackgroundTask(work, "test")
    task.serve(LocalExecutor({}), never, to_the_end=True)
    with pytest.raises(ConnectionError, match="the line broke"):
        task.result()


def test_a_failure_of_an_errand_ends_both() -> None:
    def broken(executor: Any) -> None:
        raise RuntimeError("rank 1 is gone")

    task = BackgroundTask(lambda task: task.hand_over(broken), "test")
    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        task.serve(LocalExecutor({}), never, to_the_end=True)
    assert task.stop("the run ends", 5)


def test_what_is_drawn_too_late_is_refused() -> None:
    def work(task: BackgroundTask[None]) -> None:
        task.release()
        task.hand_over(lambda executor: None)

    task = BackgroundTask(work, "test")
    task.serve(LocalExecutor({}), never, to_the_end=True)
    with pytest.raises(RunError, match="the ledger lacks some of these drawings"):
        task.result()


def test_nobody_waits_for_errands_that_nobody_does() -> None:
    task = BackgroundTask(lambda task: task.hand_over(lambda executor: None), "test")
    assert task.stop("the run ends", 5)
    with pytest.raises(RunError, match="the run ends"):
        task.result()


def test_waiting_ends_when_somebody_asks_to_stop() -> None:
    def told() -> None:
        raise RunError("SIGTERM")

    inner, _, here = world(teacher := Slow())
    task = BackgroundTask(lambda task: list(inner.ask(teacher, "generate", REQUESTS)), "test")
    with pytest.raises(RunError, match="SIGTERM"):
        task.serve(here, told, to_the_end=True)
    teacher.go_on.set()
    assert task.stop("the run ends", 5)


def test_work_that_ends_with_its_unit_is_not_cut_and_work_that_does_not_is_cut_after_a_reply() -> None:
    for patience_s, answered in ((5.0, 4), (0.1, 2)):
        inner, student, _ = world(teacher := Slow())
        got: list[ImageReply] = []

        def work(
            task: BackgroundTask[None], inner: Any = inner, student: Any = student, part: Any = teacher, got: Any = got
        ) -> None:
            for reply in BackgroundExecutor(inner, student, 2, task).ask(part, "generate", REQUESTS):
                got.append(reply)

        task = BackgroundTask(work, "test")
        assert teacher.at_second.wait(5)
        if answered == 4:
            threading.Timer(0.05, teacher.go_on.set).start()
        stopped = task.stop("the run ends", patience_s)
        teacher.go_on.set()
        task._thread.join(5)
        assert len(got) == answered and teacher.was_closed == (answered == 2)
        assert stopped == (answered == 4)


def test_a_call_that_does_not_return_is_left_behind() -> None:
    inner, _, _ = world(teacher := Slow())
    task = BackgroundTask(lambda task: list(inner.ask(teacher, "generate", REQUESTS)), "test")
    began = time.monotonic()
    assert not task.stop("the run ends", 0.1)
    assert time.monotonic() - began < 5
    teacher.go_on.set()
    task._thread.join(5)
