"""Draw the calls of many connections together: a local pipeline wants batches, and one GPU wants one caller."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.serving.images_protocol import Answer, CallRefused, ImagesCall, answer_of
from evolvedirector.teachers.teacher import Teacher


@dataclass
class _Job:
    requests: list[ImageRequest]
    answer: Future[Answer] = field(default_factory=Future)
    replies: dict[str, ImageReply] = field(default_factory=dict)


class MicroBatches:
    """Own a teacher: gather what arrives within a moment, draw it in one `generate`, answer each call when it is whole.

    Args:
        teacher: Only this object's thread calls it.
        batch_size: Images that are gathered at most.
        gather_s: Seconds to wait for company after the first call.
        max_waiting: Images that may wait; further calls are turned away with 503.
        say: Where a line about a teacher's exception goes; None is stderr.
    """

    def __init__(
        self,
        teacher: Teacher,
        batch_size: int = 8,
        gather_s: float = 0.02,
        max_waiting: int = 256,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._teacher, self._batch_size, self._gather_s, self._max_waiting = teacher, batch_size, gather_s, max_waiting
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._number = 0
        self.drawn: Counter[str] = Counter()
        """Replies of the teacher by status, and its `batches`."""
        self._thread = threading.Thread(target=self._run, name="teacher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that wait to be drawn."""
        with self._changed:
            return sum(len(job.requests) for job in self._waiting)

    def submit(self, call: ImagesCall) -> Future[Answer]:
        """Queue a call and return its answer to come.

        Args:
            call: A checked call.

        Raises:
            CallRefused: Too many are waiting, or the server is stopping.
        """
        with self._changed:
            if self._stopping:
                raise _stopped()
            if sum(len(job.requests) for job in self._waiting) + len(call.seeds) > self._max_waiting:
                raise CallRefused(503, "overloaded", "Too many images are waiting. Ask again in a moment.")
            self._number += 1
            job = _Job(
                [
                    ImageRequest(f"call-{self._number}-{index}", call.prompt, seed, call.width_px, call.height_px)
                    for index, seed in enumerate(call.seeds)
                ]
            )
            self._waiting.append(job)
            self._changed.notify_all()
        return job.answer

    def stop(self) -> None:
        """Finish what the teacher has begun to draw, turn the rest away and free the teacher."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            while jobs := self._gather():
                self._draw(jobs)
        finally:
            with self._changed:
                self._stopping = True
                left = list(self._waiting)
                self._waiting.clear()
            for job in left:
                job.answer.set_result(_stopped().answer())
            self._teacher.close()

    def _gather(self) -> list[_Job]:
        """Wait for a call, then a moment for more; empty: the server is stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            until = time.monotonic() + self._gather_s
            while not self._stopping and sum(len(job.requests) for job in self._waiting) < self._batch_size:
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    break
            jobs: list[_Job] = []
            while self._waiting and not self._stopping:
                if jobs and sum(len(job.requests) for job in [*jobs, self._waiting[0]]) > self._batch_size:
                    break
                jobs.append(self._waiting.popleft())
            return jobs

    def _draw(self, jobs: Sequence[_Job]) -> None:
        owner = {request.request_id: job for job in jobs for request in job.requests}
        failed = "the teacher gave no reply"
        try:
            for reply in self._teacher.generate([request for job in jobs for request in job.requests]):
                job = owner.pop(reply.request_id, None)
                if job is not None:
                    self._settle(job, reply)
        except Exception as error:
            self._say(f"The teacher failed: {type(error).__name__}: {error}")
            failed = f"the teacher failed ({type(error).__name__}); its server has printed why"
        self.drawn["batches"] += 1
        for request_id, job in owner.items():
            self._settle(job, ImageReply(request_id, "failure", reason=failed))

    def _settle(self, job: _Job, reply: ImageReply) -> None:
        self.drawn[reply.status] += 1
        job.replies[reply.request_id] = reply
        if len(job.replies) == len(job.requests):
            job.answer.set_result(answer_of([job.replies[request.request_id] for request in job.requests]))


def _stopped() -> CallRefused:
    return CallRefused(503, "stopping", "The server is stopping.")
