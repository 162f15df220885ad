"""Signs of life between ranks, outside of every collective: a dead, silent or stopped peer ends all within seconds."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

BEAT_S = 1.0
SILENT_AFTER_S = 12.0
"""A peer whose beat stands still this long is taken for dead (a stopped process, a cut network)."""
GRACE_S = 8.0
"""Time the main thread has to end by itself once a reason is known; it may hang in a collective that never returns."""


class Heartbeat:
    """Exchange beats through a key-value store of its own, in a thread, while a round runs.

    A thread beats while the main thread waits for a slow teacher, so a slow rank is not taken for a dead one. Another
    thread watches while the main thread hangs in a collective, so a dead peer does not hang the others. 12 s of silence
    and 8 s of grace end every rank well within 30 s.

    Args:
        host: Address of rank 0.
        port: Free port on rank 0.
        rank: This process.
        world_size: Number of processes.
        told_to_end: Asked by a thread: did SIGTERM come? The main thread may hang in a collective, where no handler of
            Python runs.
    """

    def __init__(
        self, host: str, port: int, rank: int, world_size: int, told_to_end: Callable[[], bool] = lambda: False
    ) -> None:
        self._rank = rank
        self._world_size = world_size
        self._told_to_end = told_to_end
        self._store = dist.TCPStore(
            host, port, world_size, rank == 0, timeout=timedelta(seconds=10), wait_for_workers=False
        )
        self._wake = threading.Event()
        self._hush = threading.Event()
        self._announced: str | None = None
        self._threads: tuple[threading.Thread, ...] = ()
        self._heard_s = 0.0
        self._round = 0
        self.reason: str | None = None

    def start(self) -> None:
        """Begin to beat and watch; call on every rank at the same point."""
        self._round += 1
        self.reason = self._announced = None
        self._wake, self._hush = threading.Event(), threading.Event()
        self._heard_s = time.monotonic()
        # Two threads: a store on a stopped rank 0 neither answers nor fails, so whoever talks to it may hang.
        self._threads = tuple(
            threading.Thread(target=work, args=(event,), name=f"heartbeat {work.__name__}", daemon=True)
            for work, event in ((self._talk, self._hush), (self._watch, self._wake))
        )
        for thread in self._threads:
            thread.start()
        atexit.register(self._fall_silent)

    def stop(self) -> None:
        """End the watch; every rank has passed its last collective of the round."""
        self._wake.set()
        self._hush.set()
        for thread in self._threads:
            thread.join(timeout=15)
        self._threads = ()
        atexit.unregister(self._fall_silent)

    def announce(self, reason: str) -> None:
        """Tell every rank to end, with the reason; safe in a signal handler (the thread does the talking)."""
        self._announced = self._announced or reason

    def _fall_silent(self) -> None:
        """Stop the beats of a process that ends by an error; keep watching, because its exit may hang.

        A thread that is still inside the store while the interpreter shuts down would abort the process.
        """
        self._hush.set()
        talking = self._threads[0]
        talking.join(timeout=2 * BEAT_S)
        if talking.is_alive():  # it hangs in a store that neither answers nor fails
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(1)

    def _talk(self, hush: threading.Event) -> None:
        """Beat once a second, and read the beats of the others."""
        beats: dict[int, tuple[int, float]] = {}
        count = 0
        while not hush.wait(BEAT_S):
            count += 1
            try:
                reason = self._exchange(count, beats)
            except Exception as error:  # the store died with rank 0, or its network
                reason = f"rank 0 cannot be reached any more ({type(error).__name__})"
            if hush.is_set():
                return
            self._heard_s = time.monotonic()
            if reason:
                self.reason = self.reason or reason
                return
        if self._announced:  # the main thread is on its way out and will not wait for the next beat
            with contextlib.suppress(Exception):
                self._exchange(count + 1, beats)

    def _watch(self, wake: threading.Event) -> None:
        """End this process when a reason is known and the main thread does not end by itself."""
        while not wake.wait(BEAT_S / 4):
            if self._told_to_end():
                self.announce(f"rank {self._rank} received SIGTERM")
            if not self.reason and time.monotonic() - self._heard_s > SILENT_AFTER_S:
                self.reason = f"rank 0 has been silent for {SILENT_AFTER_S:.0f} s"
            if self.reason:
                break
        else:
            return
        if not wake.wait(GRACE_S):
            print(f"[rank {self._rank}] ends: {self.reason}", file=sys.stderr, flush=True)
            os._exit(1)

    def _exchange(self, count: int, beats: dict[int, tuple[int, float]]) -> str | None:
        prefix = f"round{self._round}/"
        if self._announced:
            self._store.set(prefix + "end", self._announced)
        self._store.set(f"{prefix}{self._rank}", str(count))
        if self._store.check([prefix + "end"]):
            return self._store.get(prefix + "end").decode()
        now = time.monotonic()
        for peer in range(self._world_size):
            if peer == self._rank:
                continue
            key = f"{prefix}{peer}"
            beat = int(self._store.get(key)) if self._store.check([key]) else 0
            last, since = beats.get(peer, (-1, now))
            beats[peer] = (beat, now if beat != last else since)
            if now - beats[peer][1] > SILENT_AFTER_S:
                self._store.set(prefix + "end", f"rank {peer} has been silent for {SILENT_AFTER_S:.0f} s")
                return f"rank {peer} has been silent for {SILENT_AFTER_S:.0f} s"
        return None
