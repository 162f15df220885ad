"""How many threads a step on the CPU uses: timed where the run is, then kept, since another number sums otherwise."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import torch

from evolvedirector.callbacks._run.host_checks import is_smoke_test
from evolvedirector.callbacks._run.rehearsal import placeholder_of, trial_step
from evolvedirector.callbacks._run.untouched import untouched
from evolvedirector.errors import UserError
from evolvedirector.execution.ranks import own_rank

REPEATS = 4
HOPELESS = 2.0
"""A number that takes this many times as long as the best at its first step is not tried again."""
NEAR = 1.05
"""Of numbers within this factor of the best the smallest is taken: it leaves cores to others."""


class CpuThreads(pl.Callback):
    """Train with so many CPU threads, or with as many as make a step shortest here and now.

    Threads that share a core wait for each other: beside one other busy process the usual number (one per core) can
    take four times as long. `auto` times a training step on placeholder data, before anything is bought, with 1, 2, 4,
    ... threads up to the cores there are for each process, undoes it, and says what it chose. The number is part of
    checkpoints and a resumed run keeps it: another one sums in another order, so that losses would differ in their last
    bits. A variable OMP_NUM_THREADS is taken as the answer. On other devices than the CPU `auto` changes nothing.

    `evolvedirector fit` takes it as `cpu_threads: auto` beside `seed_everything`, and writes the number that was chosen
    into the run's `config.yaml`.

    Example:
        ```yaml
        cpu_threads: auto
        ```
    """

    def __init__(self, threads: int | Literal["auto"] = "auto") -> None:
        """Set the number, or how it is found.

        Args:
            threads: Of each process, or `auto`.

        Raises:
            UserError: A number below 1.
        """
        super().__init__()
        if threads != "auto" and threads < 1:
            raise UserError(f"cpu_threads is {threads}. Allowed: 1 or more, or auto. Write `cpu_threads: auto`.")
        self.threads = threads
        self.number: int | None = None if threads == "auto" else int(threads)
        """What the run uses; None until it is known, or where torch's own choice is left alone."""
        self._kept: int | None = None  # of the checkpoint
        self._before: int | None = None  # of the process, which may go on to other things

    def state_dict(self) -> dict[str, Any]:
        """Keep the number: a resumed run sums in the same order."""
        return {"number": self.number}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the number of the checkpoint, unless another one is written."""
        self._kept = state_dict["number"]
        if self._kept is None or self._kept == self.number:
            return
        if self.number is None:
            self._use(self._kept, "as in the checkpoint", own_rank() == 0)
        elif own_rank() == 0:
            print(f"cpu_threads: {self.number}, changed since the checkpoint ({self._kept}).", flush=True)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Use a number that is written."""
        self._before = self._before or torch.get_num_threads()
        if self.number is not None:
            torch.set_num_threads(self.number)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the number: it is known before the first image is bought."""
        stated = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
        restored_later = trainer.strategy.restore_checkpoint_after_setup and trainer.ckpt_path is not None
        is_cpu = trainer.strategy.root_device.type == "cpu"
        if self.number is not None or not is_cpu or restored_later or is_smoke_test(trainer):
            return
        if stated.isdigit() and int(stated) > 0:
            self._use(int(stated), "as OMP_NUM_THREADS says", trainer.is_global_zero)
            return
        counts = thread_counts(_own_cores() // max(1, trainer.num_devices))
        if len(counts) == 1:
            self._use(1, "one core for each process", trainer.is_global_zero)
            return
        batch, reason = placeholder_of(trainer, pl_module)
        if reason:
            self._use(torch.get_num_threads(), f"not timed, because {reason}", trainer.is_global_zero)
            return
        with untouched(trainer, pl_module):
            times_s = times_of_steps(counts, lambda: trial_step(trainer, pl_module, batch), trainer.strategy.broadcast)
        listed = ", ".join(f"{seconds * 1e3:.0f} ms with {count}" for count, seconds in times_s.items())
        self._use(best_count(times_s), f"a training step takes {listed}", trainer.is_global_zero)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the process its own number back."""
        if self._before is not None:
            torch.set_num_threads(self._before)
            self._before = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the process its own number back."""
        self.teardown(trainer, pl_module, "fit")

    def _use(self, number: int, because: str, says: bool) -> None:
        self.number = number
        torch.set_num_threads(number)
        if says:
            print(f"cpu_threads: {number} ({because}).", flush=True)


def thread_counts(cores: int) -> list[int]:
    """List the numbers worth trying: 1, 2, 4, ... and all cores.

    Args:
        cores: For this process.
    """
    cores = max(1, cores)
    return sorted({cores, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)})


def times_of_steps(
    counts: Sequence[int], step: Callable[[], None], agree: Callable[[Any], Any] = lambda value: value
) -> dict[int, float]:
    """Time a step with each number of threads, in turn, since what else runs there changes; return medians in seconds.

    Args:
        counts: Numbers of threads.
        step: What is timed.
        agree: Gives every rank rank 0's times, so that all of them try the same.
    """
    _seconds(step, counts[0])  # what only the first step of a process takes would count against the first number
    first = agree({count: _seconds(step, count) for count in counts})
    again = [count for count in counts if first[count] <= HOPELESS * min(first.values())]
    taken: dict[int, list[float]] = {count: [] for count in again}
    for _ in range(REPEATS):
        for count in again:
            taken[count].append(_seconds(step, count))
    found = agree({count: statistics.median(values) for count, values in taken.items()})
    return {count: found.get(count, first[count]) for count in counts}


def best_count(times_s: Mapping[int, float]) -> int:
    """Return the smallest number of threads that is about as fast as the fastest.

    Args:
        times_s: Seconds of a step, by number of threads.
    """
    best_s = min(times_s.values())
    return min(count for count, seconds in times_s.items() if seconds <= NEAR * best_s)


def _seconds(step: Callable[[], None], count: int) -> float:
    torch.set_num_threads(count)
    began_s = time.perf_counter()
    step()
    return time.perf_counter() - began_s


def _own_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
