"""The one owner of Ctrl-C and SIGTERM: `EndBySignal` while a run trains, `TermRequest` while it is inside a round.

Training ends at once; a round ends between two units of work. Whatever the moment, the disk stays whole.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
TERM_GRACE_S = 8.0
"""Time a unit of work has to end by itself after SIGTERM; schedulers often kill after 30 s."""


class TermRequest:
    """Take SIGTERM as a request to stop after the current unit of work, and remember it.

    Lightning's own handler would hang in a broadcast to peers that are inside of a round. Where nothing can tell the
    main thread, because it hangs in a collective, `arrived` still sees the signal from another thread. In a thread that
    is not the main one no handler can be installed, and nothing changes.
    """

    def __init__(self) -> None:
        self.received = False
        self._pipe: tuple[int, int] | None = None
        self._wakeup_before = -1

    @property
    def stop_reason(self) -> str | None:
        """Why the round should stop; None while nobody asked."""
        return "SIGTERM received" if self.received else None

    def end_if_received(self, cause: BaseException | None = None) -> None:
        """End the process with 143 when SIGTERM came, once its unit of work is over.

        Args:
            cause: What the round raised because of it.

        Raises:
            SIGTERMException: SIGTERM came; Lightning tears the trainer down and lets it pass.
        """
        if self.received:
            raise SIGTERMException(EXIT_CODES[signal.SIGTERM]) from cause

    @contextmanager
    def handled(self, tell_peers: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the handler, and put the earlier one back.

        A process of its own insists: it ends after `TERM_GRACE_S`, and at once at a second SIGTERM. One with peers
        leaves that to the heartbeat, which ends all of them.

        Args:
            tell_peers: Tells the other ranks to end. None: there are none.
        """
        insist = threading.Timer(TERM_GRACE_S, signal.pthread_kill, (threading.get_ident(), signal.SIGTERM))
        insist.daemon = True

        def handle(number: int, frame: FrameType | None) -> None:
            if tell_peers is not None:
                tell_peers()
            elif self.received:
                self.end_if_received()  # a unit that takes too long; the ledger is whole at any moment
            else:
                insist.start()
            self.received = True

        with handlers((signal.SIGTERM,), handle):
            try:
                yield
            finally:
                insist.cancel()

    def listen(self) -> None:
        """Begin to note SIGTERM for `arrived`; a handler must be installed, and only a main thread can listen."""
        if self._pipe is not None or threading.current_thread() is not threading.main_thread():
            return
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        self._wakeup_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)

    def arrived(self) -> bool:
        """Say whether SIGTERM came since the last call, even while the main thread runs no handler of Python."""
        try:
            return self._pipe is not None and signal.SIGTERM in os.read(self._pipe[0], 64)
        except OSError:  # nothing was written
            return False

    def stop_listening(self) -> None:
        """Give the wake-up descriptor back; no thread calls `arrived` any more."""
        if self._pipe is None:
            return
        try:
            signal.set_wakeup_fd(self._wakeup_before)
        except OSError:  # whoever had it closed it meanwhile
            signal.set_wakeup_fd(-1)
        for end in self._pipe:
            os.close(end)
        self._pipe = None


@contextmanager
def handlers(numbers: Iterable[signal.Signals], handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a handler of several signals and put the earlier ones back; outside of the main thread do nothing.

    Args:
        numbers: The signals.
        handle: Called in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


class EndBySignal(Callback):
    """Take SIGTERM back from Lightning: its handler waits for the next batch and broadcasts to peers that may be gone.

    A round can hold the batch loop for minutes; checkpoints and revisions are whole at any moment, so ending at once is
    safe. Under SLURM with requeueing Lightning keeps its own handlers.
    """

    def __init__(self) -> None:
        """Start with no signal received."""
        super().__init__()
        self.received: signal.Signals | None = None
        self._trainer: Trainer | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers again: Lightning has just replaced them."""
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            return
        self._trainer = trainer
        self.install()

    on_validation_start = on_test_start = on_predict_start = on_train_start

    def install(self) -> None:
        """Install the handlers; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                signal.signal(number, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """End the process, and first the ranks that it started.

        Args:
            number: The signal.
            frame: Where it came.
        """
        if self.received is not None:
            return  # already ending
        self.received = signal.Signals(number)
        launcher = self._trainer.strategy.launcher if self._trainer is not None else None
        kill = getattr(launcher, "kill", None)
        if kill is not None:
            kill(signal.SIGTERM)  # the ranks this process started
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_CODES[self.received])


def run_until_signal(run: Callable[[EndBySignal], Any], args: list[str]) -> int | None:
    """Run; at Ctrl-C or SIGTERM print how to continue and return 130 or 143. Signal handlers are restored.

    Args:
        run: What to run; it gives the callback it gets to its trainer.
        args: The command line, for the line that says how to continue.
    """
    ending = EndBySignal()
    try:
        with handlers(tuple(EXIT_CODES), ending.handle):
            run(ending)
        return 0
    except (KeyboardInterrupt, SystemExit) as error:
        if getattr(error, "code", None) == EXIT_CODES[signal.SIGTERM]:
            ending.received = signal.SIGTERM  # a round took the signal, to end between two units of work
        if ending.received is None:
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"Ended by {ending.received.name}. {command_to_continue(args)}", file=sys.stderr, flush=True)
        return EXIT_CODES[ending.received]


def command_to_continue(args: list[str]) -> str:
    """Return the sentence with the command that continues the run; other words than `fit` are simply run again.

    Args:
        args: The command line from its first word on.
    """
    kept = list(args)
    if kept[0] == "fit":
        for index, word in enumerate(args):
            if word == "--ckpt_path":
                del kept[index : index + 2]
            elif word.startswith("--ckpt_path="):
                del kept[index]
        kept += ["--ckpt_path", "last"]
    return f"Go on with: evolvedirector {shlex.join(kept)}"
