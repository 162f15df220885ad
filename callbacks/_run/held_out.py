"""What the callbacks that measure a run have in common: which prompts, when, and who may read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from evolvedirector.callbacks._run.host_checks import trains_on
from evolvedirector.evaluation.suite import Asked
from evolvedirector.execution.ranks import from_all_ranks, own_rank
from evolvedirector.judges.judge import Judge, models_of
from evolvedirector.planning.roles import EvolutionPlan, Evolves, HoldsOut, HoldsOutFiles, SizesImages
from evolvedirector.records import Prompt
from evolvedirector.records.part import Part

Value = TypeVar("Value")


def held_out_prompts(trainer: pl.Trainer) -> list[Prompt]:
    """List the datamodule's held-out prompts; none when it has no such method."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    return list(datamodule.held_out_prompts()) if isinstance(datamodule, HoldsOut) else []


def with_held_out_files(trainer: pl.Trainer, asked: Asked) -> Asked:
    """Let requests of held-out prompts bring the files that the datamodule has for them.

    Args:
        trainer: Knows the datamodule.
        asked: What a suite asks for; a request that has files keeps its own.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    files = datamodule.held_out_files() if isinstance(datamodule, HoldsOutFiles) else {}
    return {
        key: (request if request.files or prompt.id not in files else replace(request, files=files[prompt.id]), prompt)
        for key, (request, prompt) in asked.items()
    }


def evolution_plans(callbacks: Iterable[object]) -> list[EvolutionPlan]:
    """List what the callbacks that evolve data say of themselves."""
    return [callback.evolution() for callback in callbacks if isinstance(callback, Evolves)]


def size_to_draw_px(trainer: pl.Trainer, module: pl.LightningModule, data: str | None = None) -> int | None:
    """Find the side of the images of prompts that name none; None when nobody says it.

    The module knows best, then a callback that evolves the data, then the datamodule.

    Args:
        trainer: Knows the callbacks that evolve data.
        module: The student.
        data: Attribute of the datamodule that holds the data. None: the datamodule itself.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    plans = evolution_plans(trainer.callbacks)  # type: ignore[attr-defined]
    plans.sort(key=lambda plan: plan.data != data)  # the one of these data first
    part = getattr(datamodule, data, None) if data else None  # the user named this attribute
    sizes = [size_px_of(module), *(plan.image_size_px for plan in plans), size_px_of(part), size_px_of(datamodule)]
    return next((size for size in sizes if size), None)


def size_px_of(holder: object) -> int | None:
    """Return the side of the images of a module or datamodule; None where it does not know it."""
    size = holder.image_size_px if isinstance(holder, SizesImages) else None
    return size if isinstance(size, int) and size > 0 else None


def joined_readings(own: Mapping[str, Value], error: str, what: str) -> dict[str, Value] | None:
    """Join what the ranks read; where one broke off, warn and return None on all of them, so that they stay in step.

    A reader that breaks (an outage, a memory that is full) must not cost the last checkpoint of a training.

    Args:
        own: What this rank read, by key.
        error: Why this rank broke off; empty if it did not.
        what: The figures that are left out then, for the warning.
    """
    parts = from_all_ranks({own_rank(): (dict(own), error)})
    errors = [of_rank for _, of_rank in parts.values() if of_rank]
    if errors:
        rank_zero_warn(f"{what} is left out: the reader broke off: {errors[0]}")
        return None
    return {key: value for found, _ in parts.values() for key, value in found.items()}


def reading_is_due(trainer: pl.Trainer, every_n_epochs: int | None) -> bool:
    """Whether figures are read at the end of this epoch: when their turn has come, and in the last one.

    Args:
        trainer: In the epoch that ends now.
        every_n_epochs: Epochs between readings. None: only the last one.
    """
    turn = every_n_epochs is not None and (trainer.current_epoch + 1) % every_n_epochs == 0
    return turn or training_ends(trainer)


def training_ends(trainer: pl.Trainer) -> bool:
    """Whether the epoch that ends now is the last: figures read now are part of the last checkpoint."""
    return not trains_on(trainer, trainer.current_epoch + 1)


def training_judges(trainer: pl.Trainer) -> list[Judge]:
    """List the judges that choose training data."""
    return [plan.settings.judge for plan in evolution_plans(trainer.callbacks)]  # type: ignore[attr-defined]


def warn_of_training_judge(trainer: pl.Trainer, reader: Part, where: str) -> None:
    """Warn when the figures are read by whoever chose the training data: a judge, or the readers of subject pairs.

    Args:
        trainer: Knows the callbacks that evolve data.
        reader: Who reads the figures.
        where: The setting that names the reader, for the message.
    """
    plans = evolution_plans(trainer.callbacks)  # type: ignore[attr-defined]
    for judge in (part for plan in plans for part in plan.settings.selectors()):
        if models_of(judge) & models_of(reader):  # a correction or a panel does not make it another judge
            rank_zero_warn(
                f"{where} is the judge of the training data too ({reader.fingerprint}). What it gets wrong then "
                "chooses the data and counts as success: the figures may be too good. It should be a judge that is not "
                f"the training judge. Write another `class_path` or other `init_args` under `{where}`.",
            )
