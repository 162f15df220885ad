"""What a host project must offer; each refusal says which line to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from evolvedirector.evolution import EvolvingData, ImageGenerator
from evolvedirector.execution.ranks import on_rank_zero
from evolvedirector.planning.preflight import problems_of, told
from evolvedirector.planning.roles import CountsBatches, Seeded


def evolving_data_of(trainer: pl.Trainer, attribute: str | None) -> EvolvingData:
    """Find the evolving data of a trainer: its datamodule, or an attribute of it.

    Raises:
        RuntimeError: There is no datamodule, or it lacks the parts of `EvolvingData`.
    """
    host: Any = getattr(trainer, "datamodule", None)
    where = "the datamodule"
    if host is not None and attribute:
        where = f"the datamodule's attribute `{attribute}`"
        host = getattr(host, attribute, None)
    if host is None:
        raise RuntimeError(
            f"EvolutionCallback finds no evolving data: {where} is missing. It needs a LightningDataModule with "
            "`data_root`, `revision_sha` and `open_revision(revision_sha)`. Write "
            "`data: {class_path: evolvedirector.datamodules.EvolvingDataModule, init_args: {root: runs/mine/data}}`."
        )
    missing = [name for name in ("data_root", "revision_sha", "open_revision") if not _has(host, name)]
    if missing:
        raise RuntimeError(
            f"{where} ({type(host).__name__}) lacks {', '.join(f'`{name}`' for name in missing)}. "
            "It needs `data_root: Path`, `revision_sha: str` and `open_revision(self, revision_sha: str) -> None`. "
            "Add them, or use evolvedirector.datamodules.EvolvingDataModule."
        )
    return host


def _has(host: Any, name: str) -> bool:
    # A property that raises (nothing opened yet) exists all the same.
    return name in dir(type(host)) or name in getattr(host, "__dict__", {})


def check_host(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Refuse a trainer or module that a round could not work with, before anything is bought.

    Raises:
        RuntimeError: With the line to write.
    """
    every = getattr(trainer, "reload_dataloaders_every_n_epochs", 0)  # set by a connector: unknown to type checkers
    if every != 1:
        raise RuntimeError(
            f"reload_dataloaders_every_n_epochs is {every}: a new revision of the dataset would not be read. "
            "It must be 1. Write `trainer: {reload_dataloaders_every_n_epochs: 1}` or "
            "Trainer(reload_dataloaders_every_n_epochs=1)."
        )
    if not isinstance(module, ImageGenerator):
        raise RuntimeError(
            f"{type(module).__name__} has no `generate`: the judge could not see what the student draws. It needs "
            "`def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]` (one uint8 image "
            "(3, height, width) per request). Add it, or use evolvedirector.lightning_modules.TextToImage."
        )


def check_parts(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Refuse a run whose parts cannot work, on all ranks with the same words; rank 0 alone asks them.

    Args:
        trainer: Its callbacks hold teachers, judges and writers, its datamodule what reads the data.
        module: Holds text encoders, codec and weights.

    Raises:
        ValueError: With every problem.
    """
    hosts = (module, trainer.datamodule)  # type: ignore[attr-defined]
    problems = on_rank_zero(lambda: problems_of(trainer.callbacks, hosts))  # type: ignore[attr-defined]
    if problems:
        raise ValueError(told(problems))


def student_name(trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
    """Tell a student in training from others: by its class, its size, its optimizers and the order of its data.

    Args:
        trainer: Knows optimizers and datamodule.
        module: The student.
    """
    name = [type(module).__name__, str(sum(parameter.numel() for parameter in module.parameters()))]
    for optimizer in trainer.optimizers:
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        name += [type(optimizer).__name__, repr(rates)]
    data = trainer.datamodule  # type: ignore[attr-defined]
    seed = data.seed if isinstance(data, Seeded) else None
    return [*name, repr(seed), repr(data.global_batch_size if isinstance(data, CountsBatches) else None)]


def trains_on(trainer: pl.Trainer, epochs_done: int) -> bool:
    """Say whether training goes on after an epoch.

    Args:
        trainer: The running trainer.
        epochs_done: That epoch included.
    """
    steps_end = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    epochs_end = trainer.max_epochs not in (None, -1) and epochs_done >= trainer.max_epochs
    return not (steps_end or epochs_end or trainer.should_stop)


def steps_per_epoch(trainer: pl.Trainer) -> int | None:
    """Return the optimizer steps of an epoch where training is limited by steps, else None.

    Args:
        trainer: Knows its batches by now.
    """
    if trainer.max_steps == -1:
        return None
    return max(1, int(trainer.num_training_batches) // trainer.accumulate_grad_batches)


def check_sized(trainer: pl.Trainer) -> None:
    """Refuse a train loader without a length: Lightning would lose one of its batches at every resume.

    Raises:
        RuntimeError: With the line to write.
    """
    if trainer.num_training_batches == float("inf"):
        raise RuntimeError(
            "The train loader has no length: Lightning would skip one of its batches at every resume, and an epoch "
            "would never end. It needs `__len__`. Give the loader a fixed number of batches per epoch."
        )


def check_only_owner(trainer: pl.Trainer, callback: pl.Callback, root: Path, attribute: str) -> None:
    """Refuse a second callback of the same kind on the same root: two drivers would publish against each other.

    Raises:
        RuntimeError: With the line to write.
    """
    for other in trainer.callbacks:  # type: ignore[attr-defined]
        if other is not callback and type(other) is type(callback) and getattr(other, attribute, None) == root:
            raise RuntimeError(
                f"Two {type(callback).__name__}s evolve the same root {root}. Each root has one driver. Remove one, or "
                "give it data of its own: `data: NAME` names an attribute of the datamodule."
            )
