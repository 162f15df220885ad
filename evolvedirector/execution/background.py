"""Work in a thread beside training, which comes to the main thread for what only that one can do."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from evolvedirector.errors import RunError
from evolvedirector.execution.executor import Executor, Phase
from evolvedirector.records.part import Part

Result = TypeVar("Result")

POLL_S = 0.05
"""How often whoever waits looks whether it should stop."""


@dataclass(frozen=True, slots=True)
class _Errand:
    """What the main thread is to do for the other one, with the executor that it has there."""

    do: Callable[[Executor], Any]
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]]


class BackgroundTask(Generic[Result]):
    """Run work in a thread of its own until it returns, fails or is stopped.

    The thread runs Python and asks services; whatever is done by all ranks in step, or by the model in training, it
    hands to the main thread as an errand and waits until that one comes by.

    Args:
        work: Done in the thread; it gets this task.
        name: Of the thread.
    """

    def __init__(self, work: Callable[[BackgroundTask[Result]], Result], name: str) -> None:
        self._errands: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()
        self._needs_no_more = threading.Event()
        self._result: list[Result] = []
        self._error: BaseException | None = None
        self.stop_reason: str | None = None
        self.hurries = False
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._thread.start()

    # ---- in the thread

    def hand_over(self, do: Callable[[Executor], Any]) -> Any:
        """Let the main thread do something when it next comes by; return what came of it.

        Args:
            do: Gets the executor of the main thread.

        Raises:
            RunError: The task is stopped meanwhile, or said before that there would be no further errand.
        """
        if self._needs_no_more.is_set():
            raise RunError(
                "The student is to draw for a round that it has drawn for in an earlier epoch: the ledger lacks some "
                "of these drawings. Its weights of then are needed. Go on from the checkpoint that was saved as the "
                "round began (its name ends on `-round`), or put the ledger back."
            )
        errand = _Errand(do, queue.SimpleQueue())
        self._errands.put(errand)
        while True:
            try:
                result, error = errand.answer.get(timeout=POLL_S)
            except queue.Empty:
                if self.stop_reason is not None:
                    raise RunError(f"Nobody does what the background waits for: {self.stop_reason}.") from None
                continue
            if error is not None:
                raise error
            return result

    def release(self) -> None:
        """Say that there will be no further errand."""
        self._needs_no_more.set()
        self._errands.put(None)  # wakes whoever waits for one

    def _run(self, work: Callable[[BackgroundTask[Result]], Result]) -> None:
        try:
            self._result.append(work(self))
        except BaseException as error:
            self._error = error
        finally:
            self.release()

    # ---- in the main thread

    @property
    def is_over(self) -> bool:
        """Whether the work has returned or failed."""
        return bool(self._result) or self._error is not None

    def serve(self, executor: Executor, check: Callable[[], None], to_the_end: bool) -> float:
        """Do errands until there will be no more, or until the work is over; return the seconds that they took.

        Args:
            executor: What errands are done with.
            check: Called again and again while nothing comes; raises when somebody asked to stop.
            to_the_end: Whether to stay until the work is over.
        """
        busy_s = 0.0
        while not (self.is_over or (self._needs_no_more.is_set() and not to_the_end)):
            check()
            try:
                errand = self._errands.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if errand is None:
                continue
            began = time.monotonic()
            try:
                errand.answer.put((errand.do(executor), None))
            except BaseException as error:
                errand.answer.put((None, error))
                raise
            busy_s += time.monotonic() - began
        return busy_s

    @property
    def failure(self) -> BaseException | None:
        """What the work raised; None where it did not."""
        return self._error

    def result(self) -> Result | None:
        """Return what the work returned, None while it goes on.

        Raises:
            BaseException: What the work raised.
        """
        if self._error is not None:
            raise self._error
        return self._result[0] if self._result else None

    def stop(self, reason: str, patience_s: float) -> bool:
        """Ask the work to stop and wait for it; return whether it is over.

        Args:
            reason: Why, for its message.
            patience_s: How long to wait for its unit of work to end, and then as long for the reply that it waits for.
        """
        self.stop_reason = self.stop_reason or reason
        self._thread.join(patience_s)
        self.hurries = True
        self._thread.join(patience_s)
        return not self._thread.is_alive()


class BackgroundExecutor:
    """Carry the student's requests to the main thread, and all others to an executor that works in this one.

    Args:
        elsewhere: Asks whoever is not in training.
        student: Is in training.
        student_unit: Requests per unit of its work.
        task: Hands over, and knows whether to stop.
    """

    def __init__(self, elsewhere: Executor, student: Part, student_unit: int, task: BackgroundTask[Any]) -> None:
        self._elsewhere = elsewhere
        self._student = student
        self._student_unit = student_unit
        self._task = task

    def unit_of(self, part: Part) -> int:
        """Return what is asked for between two looks at whether to stop.

        Args:
            part: Who is asked.
        """
        return self._student_unit if part is self._student else self._elsewhere.unit_of(part)

    def enter(self, phase: Phase) -> None:
        """Let the tenants of other phases go; the student stays where it is."""
        self._elsewhere.enter(phase)

    def ask(self, part: Part, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Ask a part.

        Args:
            part: Who is asked.
            method: What it is asked to do.
            requests: A unit of work.

        Raises:
            RunError: The task is to stop in the middle of a unit: what was begun is finished, and nothing more begun.
        """
        if part is self._student:
            yield from self._task.hand_over(lambda executor: list(executor.ask(part, method, requests)))
            return
        replies = self._elsewhere.ask(part, method, requests)
        with closing(replies):  # type: ignore[type-var]
            for reply in replies:
                yield reply
                if self._task.hurries:
                    raise RunError(f"The background ends in the middle of its work: {self._task.stop_reason}.")
