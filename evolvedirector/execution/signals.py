"""End a run at Ctrl-C or SIGTERM at once, with the command that goes on. Whatever the moment, the disk stays whole."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


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
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            return  # already ending
        self.received = signal.Signals(number)
        launcher = self._trainer.strategy.launcher if self._trainer is not None else None
        kill = getattr(launcher, "kill", None)
        if kill is not None:
            kill(signal.SIGTERM)  # the ranks this process started
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_CODES[self.received])


def run_until_signal(run: Callable[[EndBySignal], Any], args: list[str]) -> int | None:
    """Run; at Ctrl-C or SIGTERM print how to go on and return 130 or 143. Signal handlers are restored.

    Args:
        run: What to run; it gives the callback it gets to its trainer.
        args: The command line, for the line that says how to go on.
    """
    ending = EndBySignal()
    earlier = {number: signal.getsignal(number) for number in EXIT_CODES}
    ending.install()
    try:
        run(ending)
        return 0
    except (KeyboardInterrupt, SystemExit) as error:
        if getattr(error, "code", None) == EXIT_CODES[signal.SIGTERM]:
            ending.received = signal.SIGTERM  # a round took the signal, to end between two units of work
        if ending.received is None:
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"Ended by {ending.received.name}. {how_to_go_on(args)}", file=sys.stderr, flush=True)
        return EXIT_CODES[ending.received]
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in earlier.items():
                signal.signal(number, handler)


def how_to_go_on(args: list[str]) -> str:
    """Return the sentence with the command that goes on; other words than `fit` are simply run again."""
    kept = list(args)
    if kept[0] == "fit":
        for index, word in enumerate(args):
            if word == "--ckpt_path":
                del kept[index : index + 2]
            elif word.startswith("--ckpt_path="):
                del kept[index]
        kept += ["--ckpt_path", "last"]
    return f"Go on with: evolvedirector {shlex.join(kept)}"
