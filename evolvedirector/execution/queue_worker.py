"""The worker's side of a queue folder: take a batch, ask the part, write each reply, until told to end."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any

from evolvedirector.errors import RunError, UserError
from evolvedirector.execution.queue_folder import (
    BEAT_S,
    DRIVER,
    END,
    OPEN,
    REPLIES,
    TAKEN,
    WORKERS,
    Watch,
    names_in,
    read_batch_file,
    read_beat,
    read_whole,
    write_beat,
    write_whole,
)
from evolvedirector.execution.queue_records import from_json, to_json
from evolvedirector.records.part import Part, close_parts

_log = logging.getLogger(__name__)

METHODS = ("generate", "write", "look", "check", "score")
"""What a part may be asked through a folder."""
DRIVER_SILENT_S = 30.0
"""A run whose beat stands still this long is taken for dead, and nothing is begun for it."""


class QueueWorker:
    """Serve parts to whatever run lays batches into a folder.

    Args:
        folder: The queue folder.
        parts: Who is served, by the place where the part is written: `judge`, `teachers.flux`.
        poll_s: How long to wait before looking for a batch again.
    """

    def __init__(self, folder: Path, parts: Mapping[str, Part], poll_s: float = 0.2) -> None:
        self._folder = folder
        self._parts = dict(parts)
        self._poll_s = poll_s
        self._watch = Watch()
        self.name = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.batches = 0
        """Served so far."""

    def serve(self, must_end: Callable[[], bool] = lambda: False, idle_s: float | None = None) -> None:
        """Work until told to end.

        Args:
            must_end: Asked before each batch and after each reply.
            idle_s: End by itself after so many seconds without a batch. None: never.
        """
        for name in (WORKERS, OPEN, REPLIES, f"{TAKEN}/{self.name}"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        ended = threading.Event()
        beats = threading.Thread(target=self._beat, args=(ended,), name="queue beat", daemon=True)
        beats.start()
        since = time.monotonic()
        try:
            while not must_end():
                if self._work_once(must_end):
                    since = time.monotonic()
                elif idle_s is not None and time.monotonic() - since > idle_s:
                    return
                else:
                    time.sleep(self._poll_s)
        finally:
            ended.set()
            beats.join()
            (self._folder / WORKERS / f"{self.name}.json").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what is still in it was not ended: the run finds it there as lost
                (self._folder / TAKEN / self.name).rmdir()
            close_parts(*self._parts.values())

    def _beat(self, ended: threading.Event) -> None:
        number = 0
        while True:
            try:
                write_beat(self._folder / WORKERS / f"{self.name}.json", {"serves": sorted(self._parts)}, number)
            except OSError as error:
                _log.warning("The queue folder cannot be written: %s", error)
            number += 1
            if ended.wait(BEAT_S):
                return

    def _session(self) -> str | None:
        """Return the session of the run that lays batches now; None while none is alive."""
        said = read_beat(self._folder / DRIVER)
        if said is None:
            return None
        beat = (said.get("session"), said.get("beat"))
        return str(said.get("session")) if self._watch.silent_s("driver", beat, inf) < DRIVER_SILENT_S else None

    def _work_once(self, must_end: Callable[[], bool]) -> bool:
        """Take one batch and work it off; False where there was none."""
        session = self._session()
        for name in names_in(self._folder / OPEN) if session else ():
            batch = read_batch_file(name)
            if batch is None or batch[0] not in self._parts or batch[1] != session:
                continue
            taken = self._folder / TAKEN / self.name / name
            taken.parent.mkdir(exist_ok=True)
            try:
                (self._folder / OPEN / name).rename(taken)
            except FileNotFoundError:
                if not taken.exists():  # somebody else was faster; NFS may also say so of what it did at the first try
                    continue
            self._serve_batch(batch[0], batch[2], taken, must_end)
            self.batches += 1
            return True
        return False

    def _serve_batch(self, place: str, batch: str, taken: Path, must_end: Callable[[], bool]) -> None:
        replies = self._folder / REPLIES / batch
        end: dict[str, Any] | None = {"ended": "left"}  # where this process is ended at once
        try:
            content = read_whole(taken)
            if content is None:
                end = None
                return
            said = from_json(content)
            part = self._asked(place, said)
            for number, reply in enumerate(getattr(part, said["method"])(said["requests"])):
                write_whole(replies / f"{number:06d}.json", to_json(reply))
                if must_end():
                    break
                if not taken.exists():  # nobody waits for it any more
                    end = None
                    return
            else:
                end = {"ended": "done"}
        except Exception as error:
            close_parts(*self._parts.values())  # it may have failed for want of the memory that it still holds
            kind = "user" if isinstance(error, UserError) else "run" if isinstance(error, RunError) else "other"
            text = str(error) if kind != "other" else f"{type(error).__name__}: {error}"
            end = {"ended": "failed", "kind": kind, "message": text[:4000]}
            if replies.is_dir():  # else the run took it away, and nobody waits
                _log.warning("A batch of %s failed: %s", place, text)
        finally:
            if end is not None and replies.is_dir():
                with contextlib.suppress(FileNotFoundError):
                    write_whole(replies / END, to_json(end))
            taken.unlink(missing_ok=True)

    def _asked(self, place: str, said: Mapping[str, Any]) -> Part:
        """Return the part that a batch is for; others of this process let go of their memory.

        Raises:
            RunError: It is asked for something else, or is another part than that of the run.
        """
        part = self._parts[place]
        if said["method"] not in METHODS:
            raise RunError(f"{place} is asked to {said['method']!r}. Allowed are {', '.join(METHODS)}.")
        if said["fingerprint"] != part.fingerprint:
            raise RunError(
                f"{place} of worker {self.name} is {part.fingerprint!r}, but the run's is {said['fingerprint']!r}. "
                "Both must be the same. Start the worker again with the config of the run."
            )
        close_parts(*(other for name, other in self._parts.items() if name != place))
        return part
