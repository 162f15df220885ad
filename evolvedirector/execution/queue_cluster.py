"""Parts that work on other machines through a folder on a shared disk: where there is SLURM and no Ray."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.execution.executor import Executor, Phase
from evolvedirector.execution.pool import PoolExecutor, place_key
from evolvedirector.execution.queue_folder import (
    BEAT_S,
    DRIVER,
    OPEN,
    REPLIES,
    TAKEN,
    WORKERS,
    Watch,
    clear,
    is_place,
    read_beat,
    write_beat,
)
from evolvedirector.execution.queue_pool import QueuePool
from evolvedirector.records.part import Part, close_parts
from evolvedirector.records.plain_settings import settings_of
from evolvedirector.store.paths import user_path

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueuePlacement:
    """Say how a part's requests are laid into a queue folder.

    Args:
        batch_size: Requests that a worker takes at once; replies come back one by one.
        open_batches: Batches that lie there at most, taken ones included: about twice the number of workers. No more
            requests than these are open.

    Raises:
        UserError: A number is out of range.
    """

    batch_size: int = 8
    open_batches: int = 8

    def __post_init__(self) -> None:
        for name in ("batch_size", "open_batches"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a placement is {getattr(self, name)}. It must be at least 1. Leave it out.")


class QueueCluster:
    """Let judge, writer, teachers or rewards of a round work in `evolvedirector work FOLDER` on other machines.

    A SLURM array of workers, say. The folder lies on a disk that all of them see; the root of the dataset need not. The
    run stays the only writer of its ledger: requests are reserved there before they are laid down, and a lost worker
    costs what it had taken and no more. Nothing but JSON crosses, and a worker builds its parts from the run's config.

    Example:
        ```yaml
        cluster:
          class_path: evolvedirector.execution.queue_cluster.QueueCluster
          init_args:
            folder: runs/big/queue
            placements: {judge: {batch_size: 16, open_batches: 16}, teachers.flux: {batch_size: 4}}
        ```
    """

    def __init__(
        self,
        folder: str,
        placements: dict[str, QueuePlacement],
        lost_after_s: float = 60.0,
        start_timeout_s: float = 900.0,
        poll_s: float = 0.2,
    ) -> None:
        """Describe the queue; nothing is written before a part is asked.

        Args:
            folder: On a shared disk. In the run folder a worker finds the run's config by itself.
            placements: By the place where the part is written: `judge`, `writer`, `teachers.NAME`, `rewards.NAME`.
            lost_after_s: A worker whose beat stands still this long is lost.
            start_timeout_s: How long to wait for a worker where none is alive.
            poll_s: How long to wait before looking for replies again.

        Raises:
            UserError: No part, or the student, is named; or a number is out of range.
        """
        wrong = [n for n in placements if n not in ("judge", "writer") and not n.startswith(("teachers.", "rewards."))]
        if wrong or not placements:
            what = f"names {wrong[0]!r}" if wrong else "is empty"
            raise UserError(
                f"placements {what}. Through a queue folder judge, writer, teachers.NAME and rewards.NAME can work. "
                "Write `placements: {judge: {batch_size: 8}}`."
            )
        if unwritable := [name for name in placements if not is_place(name)]:
            raise UserError(
                f"placements names {unwritable[0]!r}, which is to stand in the name of a file. Allowed are letters, "
                "digits, _, - and points, 200 at most. Name the teacher or reward anew: `teachers: {flux-1: ...}`, say."
            )
        if not (lost_after_s >= 2 * BEAT_S and start_timeout_s > 0 and 0 < poll_s <= 60):
            raise UserError(
                f"lost_after_s is {lost_after_s:g}, start_timeout_s {start_timeout_s:g} and poll_s {poll_s:g}. Allowed "
                f"are {2 * BEAT_S:g} or more, above 0, and up to 60. Write lost_after_s: 60, poll_s: 0.2."
            )
        self.folder = folder
        self.placements = {n: settings_of(QueuePlacement, p, f"placements.{n}") for n, p in placements.items()}
        self.lost_after_s = lost_after_s
        self.start_timeout_s = start_timeout_s
        self.poll_s = poll_s
        self._pools: dict[str, QueuePool] = {}
        self._laying: _Laying | None = None

    @property
    def placed(self) -> frozenset[str]:
        """The places of the parts that work through the folder."""
        return frozenset(self.placements)

    def verify(self) -> None:
        """Refuse a folder that cannot be written.

        Raises:
            UserError: It cannot.
        """
        folder = user_path(self.folder)
        parent = next(place for place in (folder, *folder.parents) if place.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UserError(
                f"The queue folder '{folder}' cannot be written. Allowed is one on a disk that all machines may write. "
                "Write another `folder`."
            )

    def over(self, inner: Executor, place_of: Callable[[Part], tuple[Phase, str]]) -> Executor:
        """Return an executor that lays requests into the folder for parts that are placed there.

        Args:
            inner: Carries all other requests.
            place_of: Returns phase and name of a part.
        """
        return PoolExecutor(inner, place_of, self.pool_of)

    def pool_of(self, place: tuple[Phase, str], part: Part) -> QueuePool | None:
        """Return who works for a part; None where it is not placed here.

        Args:
            place: Phase and name.
            part: Only its fingerprint crosses.
        """
        key = place_key(place)
        placement = self.placements.get(key or "")
        if key is None or placement is None:
            return None
        if key not in self._pools:
            if self._laying is None:
                self._laying = _Laying(user_path(self.folder))
            close_parts(part)
            self._pools[key] = QueuePool(
                self._laying.folder, self._laying.session, key, part, placement.batch_size, placement.open_batches,
                self.lost_after_s, self.start_timeout_s, self.poll_s,
            )  # fmt: skip
        return self._pools[key]

    def close(self) -> None:
        """Take back what lies there; workers wait for the next run."""
        self._pools.clear()
        if self._laying is not None:
            self._laying.end()
            self._laying = None

    def __getstate__(self) -> Mapping[str, Any]:
        """Leave the session behind."""
        return {**self.__dict__, "_pools": {}, "_laying": None}


class _Laying:
    """This process as the one run that lays batches into a folder.

    Args:
        folder: The queue folder.

    Raises:
        UserError: Another run does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.session = folder, uuid.uuid4().hex[:8]
        self._refuse_another()
        for name in (OPEN, REPLIES):  # what a run that was killed has left
            clear(folder / name)
        for name in (OPEN, REPLIES, TAKEN, WORKERS):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._ended = threading.Event()
        self._beat(0)
        self._thread = threading.Thread(target=self._beats, name="queue driver beat", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Take back what lies there."""
        self._ended.set()
        self._thread.join()
        (self.folder / DRIVER).unlink(missing_ok=True)
        for name in (OPEN, REPLIES):
            clear(self.folder / name)

    def _refuse_another(self) -> None:
        watch, until = Watch(), time.monotonic() + 3 * BEAT_S
        first = read_beat(self.folder / DRIVER)
        while first is not None and time.monotonic() < until:
            time.sleep(BEAT_S / 4)
            now = read_beat(self.folder / DRIVER)
            if now is not None and watch.silent_s("driver", now) == 0 and now != first:
                raise UserError(
                    f"Another run lays its batches into '{self.folder}'. A queue folder serves one run at a time. End "
                    "that run, or write another `folder`."
                )

    def _beat(self, number: int) -> None:
        write_beat(self.folder / DRIVER, {"session": self.session}, number)

    def _beats(self) -> None:
        number = 1
        while not self._ended.wait(BEAT_S):
            try:
                self._beat(number)
            except OSError as error:
                _log.warning("The queue folder cannot be written: %s", error)
            number += 1
