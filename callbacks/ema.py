"""Averaged weights for plain, replicated (DDP) and sharded (FSDP2) models."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from evolvedirector.errors import RunError, UserError
from evolvedirector.models.evaluated_weights import evaluated_weights
from evolvedirector.models.finite import all_finite


def warmed_decay(decay: float, updates: int) -> float:
    """Return min(decay, (1 + n) / (10 + n)): an average that is not dominated by its first, untrained weights.

    Args:
        decay: upper limit.
        updates: how often the average was updated, n.
    """
    return min(decay, (1 + updates) / (10 + updates))


class EMA(Callback):
    """Keep an exponential moving average of the trainable weights, and use it wherever the model is evaluated.

    Each rank averages its own shards (a <- d a + (1 - d) w), so nothing is gathered while training. Weights that are
    not finite are not taken in. Validation, test
    and prediction run on averaged weights; other code asks for them with `with ema.averaged(module):`.
    A checkpoint holds the average as full tensors by parameter name, gathered to rank 0: it resumes exactly, also
    under another strategy or world size, at the price of one copy of the weights in rank 0's memory while saving.

    Args:
        decay: share of the old average that an update keeps, once warmed up.
        every_n_steps: optimizer steps between updates.
        starts_at_step: optimizer step of the first copy; before it the weights themselves are used.

    Raises:
        UserError: for a decay outside [0, 1) or a step count below 1.
    """

    def __init__(self, decay: float = 0.9999, every_n_steps: int = 1, starts_at_step: int = 0) -> None:
        if not 0 <= decay < 1 or every_n_steps < 1:
            raise UserError(
                f"decay is {decay} and every_n_steps {every_n_steps}. Allowed: 0 <= decay < 1, every_n_steps >= 1. "
                f"Write decay: 0.999, every_n_steps: 1."
            )
        self.decay = decay
        self.every_n_steps = every_n_steps
        self.starts_at_step = starts_at_step
        self.updates = 0
        self._average: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}  # full tensors of a checkpoint, until the sharded parameters exist
        self._last_step = 0
        self._stage: dict[str, Any] = {}  # what is averaged since when, where a training has stages
        self._depth = 0
        self._evaluation = ExitStack()

    @contextmanager
    def averaged(self, pl_module: LightningModule) -> Iterator[None]:
        """Swap averaged weights in, and the trained ones back at the end; without an average yet, change nothing.

        Args:
            pl_module: the module that is trained.
        """
        self._materialise(pl_module)
        # an optimizer that switches weights must not do it to the ones swapped in
        with evaluated_weights(_optimizers(pl_module)):
            self._depth += 1
            swaps = self._depth == 1 and bool(self._average)
            try:
                if swaps:
                    self._swap(pl_module)
                yield
            finally:
                self._depth -= 1
                if swaps:
                    self._swap(pl_module)

    @torch.no_grad()
    def start_anew(self, pl_module: LightningModule, names: Collection[str]) -> None:
        """Begin a new average of some weights, as at the beginning of a training; those of the others stay as they are.

        Args:
            pl_module: the module that is trained.
            names: of the parameters that are trained from here on.
        """
        self._materialise(pl_module)
        self.updates = 0
        self._stage = {"names": sorted(names), "began_at_step": pl_module.trainer.global_step, "has_begun": False}
        if self._average:
            self._copy(trainable(pl_module), names)

    @torch.no_grad()
    def settle(self, pl_module: LightningModule) -> None:
        """Let the averaged weights of a stage that ends be its weights; without an average yet, change nothing.

        Args:
            pl_module: the module that is trained.
        """
        self._materialise(pl_module)
        if self._average and self._stage.get("has_begun"):
            parameters, names = trainable(pl_module), self._stage["names"]
            torch._foreach_copy_(local(_of(parameters, names)), local(_of(self._average, names)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the average of a checkpoint."""
        self._materialise(pl_module)
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after an optimizer step (not after a batch that only accumulates gradients)."""
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        step -= self._stage.get("began_at_step", 0)
        if step >= self.starts_at_step and step % self.every_n_steps == 0:
            with evaluated_weights(_optimizers(pl_module)):
                self._update(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the average as full tensors; all ranks take part, rank 0 keeps them.

        Raises:
            RunError: while averaged weights are swapped in, because they would be saved as the trained ones.
        """
        if self._depth and self._average:
            raise RunError(
                "A checkpoint is being saved while averaged weights are swapped in. It would lose the trained weights. "
                "Save before `with ema.averaged(module):` or after it."
            )
        self._materialise(pl_module)
        weights = {}
        for name, average in self._average.items():
            full = average.full_tensor() if isinstance(average, DTensor) else average
            if trainer.is_global_zero:
                weights[name] = full.detach().to("cpu", copy=True)
        stage = {"stage": self._stage} if self._stage else {}
        checkpoint.setdefault("ema", {})[self.state_key] = {"updates": self.updates, "weights": weights, **stage}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read the average; it is sharded when it is first needed."""
        state = checkpoint.get("ema", {}).get(self.state_key)
        if state is not None:
            self.updates = state["updates"]
            self._stage = dict(state.get("stage", {}))
            self._average, self._loaded = {}, state["weights"]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap in."""
        self._evaluation.enter_context(self.averaged(pl_module))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap out."""
        self._evaluation.close()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap in."""
        self._evaluation.enter_context(self.averaged(pl_module))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap out."""
        self._evaluation.close()

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap in."""
        self._evaluation.enter_context(self.averaged(pl_module))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap out."""
        self._evaluation.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Swap out, so that what is saved on the way down are the trained weights."""
        self._evaluation.close()

    @torch.no_grad()
    def _update(self, pl_module: LightningModule) -> None:
        parameters = trainable(pl_module)
        # asked on each rank for itself: what is not finite in one shard is in all of them after the next step
        if not all_finite(parameters.values()):
            return
        names = self._stage.get("names", parameters)
        if not self._average or self._stage.get("has_begun") is False:
            if not self._average:
                self._average = {name: parameter.detach().clone() for name, parameter in parameters.items()}
            self._copy(parameters, names)
            self._stage |= {"has_begun": True} if self._stage else {}
            return
        weight = 1 - warmed_decay(self.decay, self.updates)
        torch._foreach_lerp_(local(_of(self._average, names)), local(_of(parameters, names)), weight)
        self.updates += 1

    def _copy(self, parameters: dict[str, Tensor], names: Collection[str]) -> None:
        torch._foreach_copy_(local(_of(self._average, names)), local(_of(parameters, names)))

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        averages, weights = local(self._average), local(trainable(pl_module))
        trained = [weight.clone() for weight in weights]
        torch._foreach_copy_(weights, averages)
        torch._foreach_copy_(averages, trained)

    @torch.no_grad()
    def _materialise(self, pl_module: LightningModule) -> None:
        if not self._loaded:
            return
        parameters = trainable(pl_module)
        if parameters.keys() != self._loaded.keys():
            odd = sorted(parameters.keys() ^ self._loaded.keys())[:3]
            raise UserError(
                f"The checkpoint's averaged weights do not fit the model: {', '.join(odd)} is in one of them only. "
                f"They must be of the same model. Configure the model of the checkpoint, or remove the EMA callback."
            )
        self._average = {name: like(self._loaded[name], parameter) for name, parameter in parameters.items()}
        self._loaded = {}


def _optimizers(pl_module: LightningModule) -> list[torch.optim.Optimizer]:
    return [] if pl_module._trainer is None else pl_module.trainer.optimizers


def _of(tensors: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in names}


def trainable(pl_module: LightningModule) -> dict[str, Tensor]:
    """List the trainable parameters by name."""
    return {name: parameter for name, parameter in pl_module.named_parameters() if parameter.requires_grad}


def local(tensors: dict[str, Tensor]) -> list[Tensor]:
    """Return what this rank holds of each tensor, sharing memory."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach() for tensor in tensors.values()]


def like(full: Tensor, parameter: Tensor) -> Tensor:
    """Place a full tensor as `parameter` is placed: on its device, in main memory say, and sharded the same way."""
    full = full.to(device=parameter.device, dtype=parameter.dtype, copy=True)
    if not isinstance(parameter, DTensor):
        return full
    # every rank has read the whole tensor, so each cuts its own shard and nothing is sent
    cut = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return cut.to(parameter.device)  # of shards that are offloaded the mesh is one of GPUs
