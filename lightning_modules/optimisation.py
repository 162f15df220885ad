"""What every module of ours does around its loss: optimizer, clipping, updates that are finite, the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from evolvedirector.lightning_modules.finite_steps import FiniteSteps, gradient_norm, settle_step
from evolvedirector.lightning_modules.gradient_clipping import clip_gradients
from evolvedirector.lightning_modules.optimizers.factory import OptimizerFactory, make_optimizer
from evolvedirector.lightning_modules.throughput import Throughput


def optimizer_and_schedule(
    module: LightningModule,
    optimizer: OptimizerCallable | OptimizerFactory,
    lr_scheduler: LRSchedulerCallable | None,
    precision: str,
) -> Any:
    """Make optimizer and learning-rate schedule for the trainable parameters, in Lightning's form.

    Args:
        module: Whose parameters.
        optimizer: Makes the optimizer.
        lr_scheduler: Makes the schedule, stepped once per optimizer step. None: a constant rate.
        precision: Lightning's.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    made = make_optimizer(optimizer, trained, precision)
    if lr_scheduler is None:
        return made
    return {"optimizer": made, "lr_scheduler": {"scheduler": lr_scheduler(made), "interval": "step"}}


def goes_to_loggers(trainer: Trainer) -> bool:
    """Return whether loggers get the figures of the step that is being computed.

    Lightning's own `log` costs half a millisecond, which a small network's step feels, and drops the figure in between.

    Args:
        trainer: In training.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return bool(every) and (trainer.global_step + 1) % every == 0


def clip_and_settle(
    module: LightningModule,
    steps: FiniteSteps,
    optimizer: torch.optim.Optimizer,
    limit: int | float | None,
    algorithm: str | None,
) -> None:
    """Clip gradients, log norm and loss, and drop an update that is not finite on all ranks.

    Args:
        module: In training.
        steps: Saw the losses of this step.
        optimizer: About to step.
        limit: Largest norm or value. None: any.
        algorithm: `norm` or `value`. None: `norm`.
    """
    is_scaled = getattr(module.trainer.precision_plugin, "scaler", None) is not None
    algorithm = algorithm or "norm"
    norm = gradient_norm(optimizer) if not limit or algorithm == "value" else None  # before clamping
    if limit:
        clipped = clip_gradients(optimizer, limit, algorithm, is_scaled)
        if clipped is not None:
            if goes_to_loggers(module.trainer):
                module.log("train/gradient_norm", clipped)
            norm = clipped
    assert norm is not None
    loss = settle_step(steps, module.trainer, optimizer, norm, list(module.parameters()))
    module.log("train/loss", loss, prog_bar=True, batch_size=1)


def log_training(
    module: LightningModule, losses: Tensor, batch: Mapping[str, Any], steps: FiniteSteps, throughput: Throughput
) -> int:
    """Note the losses of a batch, log speed and learning rate, and return how many images all ranks have read.

    Args:
        module: In training.
        losses: Float[batch].
        batch: Names its samples.
        steps: Notes the losses.
        throughput: Counts the images.
    """
    steps.saw(losses, batch)
    local_images = len(batch["prompt"])
    images = local_images * module.trainer.world_size
    images_per_s = throughput.count(images)
    if images_per_s is not None:
        module.log("train/images_per_s", images_per_s, batch_size=local_images)
    optimizers = module.trainer.optimizers
    if optimizers and goes_to_loggers(module.trainer):
        module.log("train/learning_rate", optimizers[0].param_groups[0]["lr"], batch_size=local_images)
    return images
