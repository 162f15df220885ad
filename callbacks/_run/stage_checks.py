"""What stages need of trainer, module and data; each refusal says which line to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy

from evolvedirector.errors import RunError, UserError
from evolvedirector.experts.host import HoldsExperts, TrainsOnSubsets
from evolvedirector.experts.stages import Stage
from evolvedirector.planning.roles import CountsBatches, Evolves, RanksSkills


def check_stage_host(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[HoldsExperts, TrainsOnSubsets]:
    """Refuse a project in which stages could not be trained, before anything is bought.

    Args:
        trainer: Knows strategy and datamodule.
        module: The student.

    Returns:
        Module and datamodule, as stages use them.

    Raises:
        RunError: With the line to write.
    """
    if not isinstance(module, HoldsExperts):
        raise RunError(
            f"{type(module).__name__} holds no experts: it lacks `trained: Trained` or `def experts(self) -> "
            "NetworkExperts` (evolvedirector.experts.host.HoldsExperts). Stages need both. Add them, or use "
            "evolvedirector.lightning_modules.TextToImage."
        )
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, TrainsOnSubsets) or not isinstance(data, CountsBatches):
        raise RunError(
            f"{type(data).__name__} cannot train on a subset: it lacks `train_on(subset)`, `check_subset(subset)`, "
            "`batches_per_epoch` or `global_batch_size`. Stages need them. Add them, or use "
            "evolvedirector.datamodules.EvolvingDataModule."
        )
    strategy: Any = trainer.strategy
    if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise RunError(
            "The strategy is DDP without find_unused_parameters, which waits forever for the gradients of experts that "
            "are not trained in a stage. Write trainer.strategy: ddp_find_unused_parameters_true."
        )
    return module, data


def steps_of(trainer: pl.Trainer, data: object) -> tuple[int | None, int]:
    """Return the optimizer steps of the training (None: no end is set) and those of an epoch.

    Args:
        trainer: Knows its limits; its loaders need not be there yet.
        data: Counts the batches of an epoch.
    """
    assert isinstance(data, CountsBatches)
    limit = trainer.limit_train_batches
    batches = min(data.batches_per_epoch, limit) if isinstance(limit, int) else int(data.batches_per_epoch * limit)
    per_epoch = max(1, -(-batches // trainer.accumulate_grad_batches))  # the last batch of an epoch steps in any case
    ends = [trainer.max_steps] if trainer.max_steps != -1 else []
    if trainer.max_epochs not in (None, -1):
        ends.append(trainer.max_epochs * per_epoch)
    return (min(ends) if ends else None), per_epoch


def ranks_skills(trainer: pl.Trainer, stage: Stage) -> RanksSkills:
    """Return the callback whose rounds say which skills fail.

    Args:
        trainer: Knows the callbacks.
        stage: Which asks.

    Raises:
        UserError: There is none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RanksSkills):
            return callback
    raise UserError(
        f"Stage {stage.name!r} trains on a skill that fails, but no callback holds rounds that would see one fail. "
        "Allowed is such a stage beside an EvolutionCallback. Add one, or name the skill: trains_on: {skills: "
        "[counting]}."
    )


def check_order_of_rounds(trainer: pl.Trainer, stages_callback: pl.Callback, stages: Sequence[Stage]) -> None:
    """Refuse stages that need rounds where there are none, or rounds that would draw before a merge works.

    Args:
        trainer: Knows the callbacks and their order, in which their hooks are called.
        stages_callback: That trains them.
        stages: In their order.

    Raises:
        UserError: With what to change.
    """
    for stage in stages:
        if stage.failing is not None:
            ranks_skills(trainer, stage)
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    earlier = callbacks[: callbacks.index(stages_callback)]
    if any(stage.draws_first for stage in stages) and any(isinstance(callback, Evolves) for callback in earlier):
        raise UserError(
            "EvolutionCallback stands before ExpertStages under trainer.callbacks, so that a round between two stages "
            "would draw with the expert that ended, not with what the next one stands on. Allowed with `failing` or "
            "`on_top_of` is the other order. Put ExpertStages before EvolutionCallback."
        )
