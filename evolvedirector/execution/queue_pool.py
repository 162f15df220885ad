"""The run's side of a queue folder: lay batches, read replies as they come, lay again what a lost worker had taken."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolvedirector.errors import RunError, UserError
from evolvedirector.execution.pool import MOST_LOST
from evolvedirector.execution.queue_folder import (
    BEAT_S,
    END,
    OPEN,
    REPLIES,
    TAKEN,
    WORKERS,
    Watch,
    batch_file,
    clear,
    names_in,
    read_beat,
    read_whole,
    write_whole,
)
from evolvedirector.execution.queue_records import from_json, to_json
from evolvedirector.records.part import Part, requests_in_flight_of

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Batch:
    """Requests that lie in the folder, under the name of their file."""

    name: str
    number: int
    replies: Path
    requests: Sequence[Any]
    read: set[str] = field(default_factory=set)
    """Names of the replies that were handed on."""


class QueuePool:
    """Ask whoever serves a part in a queue folder.

    Args:
        folder: The queue folder.
        session: Of this run, in the names of its batches.
        place: Where the part is written: `teachers.flux`.
        part: Its fingerprint is compared with the worker's.
        batch_size: Requests that a worker takes at once.
        open_batches: Batches that lie there at most.
        lost_after_s: A worker whose beat stands still this long is lost.
        start_timeout_s: How long to wait where no worker is alive.
        poll_s: How long to wait before looking again.
    """

    def __init__(
        self,
        folder: Path,
        session: str,
        place: str,
        part: Part,
        batch_size: int,
        open_batches: int,
        lost_after_s: float,
        start_timeout_s: float,
        poll_s: float,
    ) -> None:
        self._folder, self._session, self._place = folder, session, place
        self._fingerprint = part.fingerprint
        self._is_paid = requests_in_flight_of(part) > 0
        self._batch_size, self._open_batches = batch_size, open_batches
        self._lost_after_s, self._start_timeout_s, self._poll_s = lost_after_s, start_timeout_s, poll_s
        self._watch = Watch()
        self._number = 0
        self._alone_since: float | None = None
        self._looked_s = 0.0
        """When beats were read last."""

    @property
    def unit(self) -> int:
        """Requests that lie in the folder at most."""
        return self._batch_size * self._open_batches

    def ask(self, method: str, requests: Sequence[Any]) -> Iterator[Any]:
        """Lay requests into the folder; yield replies as they come.

        What a lost worker had taken is laid again, unless the part asks a service: that may have answered, and be paid
        for, so these requests stay without a reply and the ledger counts them as lost.

        Args:
            method: Of the part.
            requests: In any number.

        Raises:
            RunError: No worker is alive for long, or one after the other is lost, or the part failed there.
            UserError: The part refused there what was written.
        """
        size = self._batch_size
        waiting = deque(requests[start : start + size] for start in range(0, len(requests), size))
        lying: list[_Batch] = []
        error: Exception | None = None
        lost_in_a_row, seen = 0, 0
        self._alone_since = None
        try:
            while lying or (waiting and error is None):
                while waiting and error is None and len(lying) < self._open_batches:
                    lying.append(self._lay(method, waiting.popleft()))
                stirred = False
                for batch in list(lying):
                    replies, end = self._new_of(batch)
                    stirred = stirred or bool(replies) or end is not None
                    lost_in_a_row = 0 if replies else lost_in_a_row
                    yield from replies
                    if end is None:
                        continue
                    self._take_back(batch)
                    lying.remove(batch)
                    if end["ended"] == "failed":
                        error = error or _error_of(self._place, end)
                    elif end["ended"] == "left" and not self._is_paid:
                        waiting.append(batch.requests)
                for batch in self._lost_among(lying):
                    lying.remove(batch)
                    if batch.number > seen:  # what lay there already may be of the same machine
                        lost_in_a_row, seen = lost_in_a_row + 1, self._number
                    if not self._is_paid:  # replies may come in any order: all of it again, doubles are none
                        waiting.append(batch.requests)
                if lost_in_a_row >= MOST_LOST:
                    raise _lost_for_good(self._place)
                if not stirred and lying:
                    time.sleep(self._poll_s)
            if error is not None:
                raise error
        finally:
            for batch in lying:
                self._take_back(batch)

    def _lay(self, method: str, requests: Sequence[Any]) -> _Batch:
        self._number += 1
        name = batch_file(self._place, self._session, self._number)
        replies = self._folder / REPLIES / f"{self._session}-{self._number}"
        replies.mkdir(parents=True)
        said = {"method": method, "fingerprint": self._fingerprint, "requests": list(requests)}
        write_whole(self._folder / OPEN / name, to_json(said))
        return _Batch(name, self._number, replies, requests)

    def _take_back(self, batch: _Batch) -> None:
        """Remove a batch: what nobody has taken is never begun, and who has taken it stops after the next reply."""
        (self._folder / OPEN / batch.name).unlink(missing_ok=True)
        for worker in names_in(self._folder / TAKEN):
            (self._folder / TAKEN / worker / batch.name).unlink(missing_ok=True)
        clear(batch.replies)

    def _new_of(self, batch: _Batch) -> tuple[list[Any], dict[str, Any] | None]:
        """Return replies that were not read before, and how the batch ended; None while it goes on."""
        end = read_whole(batch.replies / END)  # first: what was written before it is listed now
        replies = []
        for name in names_in(batch.replies):
            content = None if name == END or name in batch.read else read_whole(batch.replies / name)
            if content is not None:
                batch.read.add(name)
                replies.append(from_json(content))
        return replies, None if end is None else from_json(end)

    def _lost_among(self, lying: Sequence[_Batch]) -> list[_Batch]:
        """Return batches whose worker's beat stands still; they are taken back.

        Raises:
            RunError: Nobody who serves the part has been alive for long.
        """
        if time.monotonic() - self._looked_s < BEAT_S / 2:
            return []
        self._looked_s = time.monotonic()
        said = {file: read_beat(self._folder / WORKERS / file) or {} for file in names_in(self._folder / WORKERS)}
        silent_s = {file: self._watch.silent_s(file, about.get("beat")) for file, about in said.items()}
        self._wait_for_workers(
            any(silent_s[file] < self._lost_after_s and self._place in said[file].get("serves", ()) for file in said)
        )
        by_name = {batch.name: batch for batch in lying}
        lost = []
        for worker in names_in(self._folder / TAKEN):
            taken = [by_name[name] for name in names_in(self._folder / TAKEN / worker) if name in by_name]
            file = f"{worker}.json"  # gone where a worker ended in order: then nothing new is taken either
            if taken and (silent_s[file] if file in said else self._watch.silent_s(file, None)) >= self._lost_after_s:
                _log.warning("Worker %s was lost with %d batches of %s.", worker, len(taken), self._place)
                lost += taken
        for batch in lost:
            self._take_back(batch)
        return lost

    def _wait_for_workers(self, alive: bool) -> None:
        if alive:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = time.monotonic()
            _log.warning("No worker serves %s yet. Start some: evolvedirector work %s", self._place, self._folder)
        if time.monotonic() - self._alone_since > self._start_timeout_s:
            raise RunError(
                f"No worker has served {self._place} in '{self._folder}' for {self._start_timeout_s:g} s. At least one "
                f"must be alive. Run `evolvedirector work {self._folder}` on other machines, and give the same command "
                "again."
            )


def _error_of(place: str, end: dict[str, Any]) -> Exception:
    message = str(end.get("message", ""))
    if end.get("kind") == "user":
        return UserError(message)
    if end.get("kind") == "run":
        return RunError(message)
    return RunError(
        f"{place} failed on a worker ({' '.join(message.split())[:500]}). Its own output says more. Mend that there, "
        "and give the same command again."
    )


def _lost_for_good(place: str) -> RunError:
    return RunError(
        f"{MOST_LOST} batches of {place} were lost with their workers one after the other, without a reply between. A "
        "machine may lack memory for it. Look at the workers' output, or lower batch_size under `placements`."
    )
