"""Updates are applied only where loss and gradient are finite, on all ranks alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from evolvedirector.errors import RunError, UserError
from evolvedirector.models.finite import all_finite

OnNonFinite = Literal["stop", "skip"]
MAX_NOTED_STEPS = 20
_MAX_NAMES = 16


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What all ranks know of a step.

    Args:
        loss: Mean over ranks and accumulated batches.
        loss_is_finite: Whether the loss of every batch on every rank is.
        gradient_is_finite: Whether the gradient's norm is, on every rank.
    """

    loss: float
    loss_is_finite: bool
    gradient_is_finite: bool

    def counts(self, loss_scale: float | None) -> bool:
        """Return whether the step counts as not finite.

        A loss scaler (precision 16-mixed) begins with a scale that overflows on purpose, leaves such a step out and
        lowers the scale. That is its normal work as long as the loss is finite and the scale can fall.

        Args:
            loss_scale: Scale of the loss; None without a scaler.
        """
        if self.loss_is_finite and not self.gradient_is_finite and loss_scale is not None:
            return loss_scale <= 1
        return not (self.loss_is_finite and self.gradient_is_finite)


@dataclass(slots=True)
class FiniteSteps:
    """Count steps whose loss or gradient is not finite, name their samples, and say when a run must end.

    Args:
        on_nonfinite: `stop` ends the run after `limit` such steps in a row; `skip` goes on as long as the weights are
            finite.
        limit: Steps in a row.

    Raises:
        UserError: The limit is below 1, or the word another.
    """

    on_nonfinite: OnNonFinite
    limit: int
    count: int = 0
    in_a_row: int = 0
    steps: list[int] = field(default_factory=list)
    _seen: list[tuple[Tensor, list[str]]] = field(default_factory=list)  # by batch of this step: losses and names

    def __post_init__(self) -> None:
        if self.on_nonfinite not in ("stop", "skip") or self.limit < 1:
            raise UserError(
                f"on_nonfinite is {self.on_nonfinite!r} and nonfinite_limit {self.limit}. Allowed are stop and skip, "
                "and a limit from 1 up. Write on_nonfinite: stop, nonfinite_limit: 5."
            )

    def saw(self, losses: Tensor, batch: Mapping[str, Any]) -> None:
        """Note a batch of the step that is being computed; nothing is read from the device yet.

        Args:
            losses: Float[batch]: one per sample.
            batch: Its `key` names the samples, else its `prompt`.
        """
        self._seen.append((losses.detach().reshape(-1), [str(name) for name in batch.get("key") or batch["prompt"]]))

    def figures(self, gradient_norm: Tensor, reduce: Callable[[Tensor], Tensor], world_size: int) -> StepFigures:
        """Reduce loss and flags over the ranks: one collective of three numbers, one wait for the device.

        The wait comes after the backward pass is queued. Weights and optimizer state can only be left as they are when
        the answer is known before the update.

        Args:
            gradient_norm: Of what this rank holds, or of the whole model.
            reduce: Sums a tensor over ranks.
            world_size: Number of ranks.
        """
        means = torch.stack([losses.mean() for losses, _ in self._seen]).float()
        bad = torch.stack([~means.isfinite().all(), ~gradient_norm.to(means.device).isfinite()]).float()
        loss, bad_losses, bad_gradients = reduce(torch.cat([means.mean()[None], bad])).tolist()
        return StepFigures(loss / world_size, not bad_losses, not bad_gradients)

    def went_well(self) -> None:
        """Begin the next step after one that is finite."""
        self.in_a_row = 0
        self._seen.clear()

    def was_scaled_down(self) -> None:
        """Begin the next step after one that the loss scaler leaves out."""
        self._seen.clear()

    def went_wrong(self, step: int, weights: Callable[[], bool]) -> str | None:
        """Count a step that is not finite; call it on all ranks.

        Args:
            step: Its number.
            weights: Says whether the weights are finite on all ranks.

        Returns:
            What to tell the user now and then: at the first, second, fourth, eighth such step, and so on.

        Raises:
            RunError: The run must end.
        """
        self.count, self.in_a_row = self.count + 1, self.in_a_row + 1
        self.steps = [*self.steps, step][:MAX_NOTED_STEPS]
        samples = self._samples()
        self._seen.clear()
        if self.in_a_row % self.limit == 0 and (self.on_nonfinite == "stop" or not weights()):
            raise RunError(
                f"Loss or gradient was not finite in {self.in_a_row} step{'s' * (self.in_a_row > 1)} in a row, up to "
                f"step {step} ({samples}). Fewer than nonfinite_limit = {self.limit} in a row are allowed, and none of "
                "these updates was applied. Lower the learning rate, set trainer.gradient_clip_val: 1.0, or take these "
                "samples out of the dataset, then go on with --ckpt_path last."
            )
        if self.count & (self.count - 1):
            return None
        return (
            f"Step {step} is left out, {self.count} so far: its loss or gradient is not finite ({samples}). Weights "
            "and optimizer stay as they were; step count and learning rate go on."
        )

    def at_end(self, step: int) -> None:
        """Refuse to call a run finished whose last steps were not finite.

        Args:
            step: The last one.

        Raises:
            RunError: They were not, and `on_nonfinite` is `stop`.
        """
        if self.in_a_row and self.on_nonfinite == "stop":
            last = f"the last {self.in_a_row} steps" if self.in_a_row > 1 else "the last step"
            raise RunError(
                f"Training came to step {step}, but loss or gradient was not finite in {last}. A run whose end is "
                "finite is allowed; what it came to is saved and marked as not finite. Lower the learning rate and go "
                "on with --ckpt_path last, which takes the newest checkpoint before, or write on_nonfinite: skip."
            )

    def state(self) -> dict[str, Any]:
        """Return what a resumed run goes on counting from."""
        return {"count": self.count, "in_a_row": self.in_a_row, "steps": list(self.steps)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on counting; older checkpoints hold nothing."""
        self.count, self.in_a_row = int(state.get("count", 0)), int(state.get("in_a_row", 0))
        self.steps = [int(step) for step in state.get("steps", [])]

    def _samples(self) -> str:
        """Name the samples whose loss is not finite on any rank; all of the step where only the gradient is not."""
        marked, every = [], []
        for losses, names in self._seen:
            flags = losses.isfinite().tolist()
            flags = flags if len(flags) == len(names) else [all(flags)] * len(names)
            marked += [name for name, is_finite in zip(names, flags, strict=True) if not is_finite]
            every += names
        parts: list[Any] = [(marked, every)]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            parts = [None] * dist.get_world_size()
            dist.all_gather_object(parts, (marked, every))
        marked = [name for part, _ in parts for name in part]
        every = [name for _, part in parts for name in part]
        return f"samples {_listed(marked)}" if marked else f"one of the samples {_listed(every)}"


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the norm of the gradients that this process holds, as a scalar on their device.

    Args:
        optimizer: Holds the parameters.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    return torch.nn.utils.get_total_norm([gradient for gradient in local if gradient.numel()])


def settle_step(
    steps: FiniteSteps, trainer: Trainer, optimizer: torch.optim.Optimizer, norm: Tensor, weights: Sequence[Tensor]
) -> float:
    """Drop an update that is not finite, on all ranks or on none; return the loss of the global batch.

    Args:
        steps: Saw the losses of this step.
        trainer: Knows ranks and loss scaler.
        optimizer: About to step.
        norm: Of its gradients.
        weights: Of this rank, looked at where a run must end if they are not finite.

    Raises:
        RunError: The run must end.
    """
    strategy, scaler = trainer.strategy, getattr(trainer.precision_plugin, "scaler", None)
    found = steps.figures(norm, lambda flags: strategy.reduce(flags, reduce_op="sum"), trainer.world_size)
    if found.loss_is_finite and found.gradient_is_finite:
        steps.went_well()
    elif not found.counts(None if scaler is None else scaler.get_scale()):
        steps.was_scaled_down()
    else:
        leave_update_out(optimizer)
        said = steps.went_wrong(
            trainer.global_step + 1, lambda: weights_are_finite(weights, strategy.reduce_boolean_decision)
        )
        if said and trainer.is_global_zero:
            print(said, flush=True)
    return found.loss


def leave_update_out(optimizer: torch.optim.Optimizer) -> None:
    """Drop the gradients: an optimizer steps over parameters without one, weight decay and moments included.

    Args:
        optimizer: About to step.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def weights_are_finite(parameters: Sequence[Tensor], agree: Callable[[bool], bool]) -> bool:
    """Return whether weights are finite on all ranks.

    Args:
        parameters: Of this rank.
        agree: Returns whether all ranks say yes.
    """
    return agree(all_finite(parameters))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
