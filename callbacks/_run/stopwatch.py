"""Measure training steps where they happen: in the trainer's own loop, with the run's own parts."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.utils.checkpoint
from torch.utils.flop_counter import FlopCounterMode

from evolvedirector.planning.allocations import AllocationTracker, held_bytes, living_tensors
from evolvedirector.planning.flops import flop_counter, now_s

WARM_UP_STEPS = 2
PARTS = ("data", "forward", "backward", "optimizer", "averages")
"""What a step is timed in; `optimizer` is clipping and update, `averages` what callbacks do with the new weights."""
Purpose = Literal["count", "warm up", "time", "time parts", "trace"]


@dataclass(slots=True)
class StepFigures:
    """What was measured of the training steps.

    Args:
        step_s: Of each timed step, from the end of the one before to its own.
        parts_s: Of each step timed in parts, by the names of `PARTS`.
        forward_flops: Of one batch.
        backward_flops: Likewise, without what is computed again.
        recomputed_flops: What the backward pass computes again, because blocks are checkpointed.
        checkpointed_blocks: Calls of `torch.utils.checkpoint` in one forward pass.
        peak_bytes: The most memory that a step had on the device, weights included.
        batch_size: Images of one batch; 0 where a batch does not say.
        batches_per_update: Batches whose gradients are added up for one update of the weights.
        reads_latents: Whether batches hold latents in place of images.
        batch: The last one, on the device.
    """

    step_s: list[float] = field(default_factory=list)
    parts_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    forward_flops: int = 0
    backward_flops: int = 0
    recomputed_flops: int = 0
    checkpointed_blocks: int = 0
    peak_bytes: int = 0
    batch_size: int = 0
    batches_per_update: int = 1
    reads_latents: bool = False
    batch: Any = None

    @property
    def typical_step_s(self) -> float:
        """Of one batch, see `typical`."""
        return self.typical(self.step_s)

    def typical(self, seconds: Sequence[float]) -> float:
        """Return the median over batches; the mean over whole updates where only one batch of several updates.

        Args:
            seconds: By batch.
        """
        if self.batches_per_update == 1:
            return statistics.median(seconds)
        return statistics.mean(seconds[: len(seconds) // self.batches_per_update * self.batches_per_update])


class Stopwatch(pl.Callback):
    """Count, time and trace steps, each purpose in steps of its own. It stands before all callbacks but `Behind`.

    On a GPU, steps that are timed whole are not interrupted: the device is waited for between the parts of a step only
    in steps after them.
    """

    def __init__(self, steps: int) -> None:
        """Plan.

        Args:
            steps: To time, in each way.
        """
        self.figures = StepFigures()
        self._steps = steps
        self._plan: list[Purpose] = []
        self._now: Purpose = "warm up"
        self._marked_at = 0.0
        self._step_began = 0.0
        self._device = torch.device("cpu")
        self._open = ExitStack()
        self._flops: FlopCounterMode | None = None
        self._tracker: AllocationTracker | None = None

    @staticmethod
    def batches(steps: int) -> int:
        """Return how many batches a trainer has to deliver."""
        return 1 + WARM_UP_STEPS + 2 * steps + 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Plan the steps of this device."""
        self._device = trainer.strategy.root_device
        self.figures.batches_per_update = trainer.accumulate_grad_batches
        timed: list[Purpose] = [*["time"] * self._steps, *["time parts"] * self._steps]  # type: ignore[list-item]
        warm: list[Purpose] = ["warm up"]
        self._plan = [*warm, "count", *warm * (WARM_UP_STEPS - 1), *timed, "trace"]
        self._marked_at = self._step_began = now_s(self._device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin what this step is for."""
        self._now = self._plan.pop(0) if self._plan else "warm up"
        self.figures.batch, self.figures.batch_size = batch, _size_of(batch)
        self.figures.reads_latents = isinstance(batch, dict) and "latent_mean" in batch
        self._mark("data")
        if self._now == "count":
            self._open.enter_context(_eager())
            self._open.enter_context(_recomputing(self.figures, lambda: self._flops))
            self._flops = self._open.enter_context(flop_counter())
        elif self._now == "trace":
            self._trace()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """End the forward pass."""
        self._mark("forward")
        if self._flops is not None:
            self.figures.forward_flops = self._flops.get_total_flops()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the backward pass."""
        self._mark("backward")
        if self._flops is not None:
            figures = self.figures
            figures.backward_flops = self._flops.get_total_flops() - figures.forward_flops - figures.recomputed_flops
            self._flops = None
            self._open.close()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the update of the weights."""
        self._mark("optimizer")

    def end_step(self) -> None:
        """End the step, after all other callbacks."""
        self._mark("averages")
        if self._now == "trace":
            self._end_trace()
        self._open.close()
        now = now_s(self._device)
        if self._now == "time":
            self.figures.step_s.append(now - self._step_began)
        self._step_began = self._marked_at = now

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave what was entered."""
        self._open.close()

    def _mark(self, part: str) -> None:
        if self._now != "time parts":
            if part == "data":  # known only now: the step before was of another purpose
                self._marked_at = time.perf_counter()
            return
        now = now_s(self._device)
        self.figures.parts_s[part].append(now - (self._step_began if part == "data" else self._marked_at))
        self._marked_at = now

    def _trace(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        self.figures.peak_bytes = held_bytes(living_tensors(self._device.type))
        self._tracker = self._open.enter_context(AllocationTracker())

    def _end_trace(self) -> None:
        if self._device.type == "cuda":
            self.figures.peak_bytes = torch.cuda.max_memory_allocated(self._device)
        elif self._tracker is not None:
            self.figures.peak_bytes += self._tracker.peak_bytes


class Behind(pl.Callback):
    """Tell a stopwatch when the last callback is done with a step; it stands behind all others.

    Args:
        stopwatch: To be told.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell."""
        self._stopwatch.end_step()


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """Yield a list that holds, at the end, the most memory that was taken on the device, in bytes.

    Args:
        device: A GPU counts itself; elsewhere what tensors take is traced.
    """
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device))
        return
    held = held_bytes(living_tensors(device.type))
    with AllocationTracker() as tracker:
        yield found
    found.append(held + tracker.peak_bytes)


def _size_of(batch: Any) -> int:
    prompts: Sequence[Any] = batch.get("prompt", ()) if isinstance(batch, dict) else ()
    first = next((part for part in _values(batch) if isinstance(part, torch.Tensor) and part.dim() > 0), None)
    return len(prompts) or (0 if first is None else len(first))


def _values(batch: Any) -> Sequence[Any]:
    if isinstance(batch, dict):
        return list(batch.values())
    return batch if isinstance(batch, list | tuple) else [batch]


@contextmanager
def _eager() -> Iterator[None]:
    """Run compiled blocks as they are written: a counter sees no operation of a compiled one."""
    torch.compiler.set_stance("force_eager")
    try:
        yield
    finally:
        torch.compiler.set_stance("default")


@contextmanager
def _recomputing(figures: StepFigures, counter: Any) -> Iterator[None]:
    """Count what checkpointed blocks compute in the forward pass: the same comes again in the backward pass."""
    checkpoint = torch.utils.checkpoint.checkpoint

    def counted(*args: Any, **kwargs: Any) -> Any:
        before = counter().get_total_flops()
        result = checkpoint(*args, **kwargs)
        figures.checkpointed_blocks += 1
        figures.recomputed_flops += counter().get_total_flops() - before
        return result

    torch.utils.checkpoint.checkpoint = counted  # type: ignore[assignment]
    try:
        # else a block's last products, which nothing needs, would be left out of it
        with torch.utils.checkpoint.set_checkpoint_early_stop(False):
            yield
    finally:
        torch.utils.checkpoint.checkpoint = checkpoint
