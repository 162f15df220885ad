"""What the callbacks that measure a run have in common: which prompts, when, and who may read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from evolvedirector.execution.ranks import from_all_ranks, own_rank
from evolvedirector.judges.judge import Judge, models_of
from evolvedirector.records import ImageRequest, Prompt, digest, seed_of

Value = TypeVar("Value")


def held_out_prompts(trainer: pl.Trainer) -> list[Prompt]:
    """List the datamodule's held-out prompts; none when it has no such method."""
    prompts = getattr(getattr(trainer, "datamodule", None), "held_out_prompts", None)
    return list(prompts()) if prompts else []


def size_to_draw_px(trainer: pl.Trainer, module: pl.LightningModule, data: str | None = None) -> int | None:
    """Find the side of the images of prompts that name none; None when nobody says it.

    The module knows best, then a callback that evolves the data, then the datamodule.

    Args:
        trainer: Its callbacks with an attribute `judge` are those that evolve the data.
        module: The student.
        data: Attribute of the datamodule that holds the data. None: the datamodule itself.
    """
    datamodule = getattr(trainer, "datamodule", None)
    evolving = [callback for callback in trainer.callbacks if hasattr(callback, "judge")]  # type: ignore[attr-defined]
    evolving.sort(key=lambda callback: getattr(callback, "data", None) != data)  # the one of these data first
    for holder in (module, *evolving, getattr(datamodule, data, None) if data else None, datamodule):
        size = getattr(holder, "image_size_px", None)
        if isinstance(size, int) and size > 0:
            return size
    return None


def all_sized(prompts: Sequence[Prompt], size_px: int | None) -> bool:
    """Whether it is known how large the image of each prompt is.

    Args:
        prompts: What is to be drawn.
        size_px: Side of the images of prompts that name none. None: unknown.
    """
    return size_px is not None or all(prompt.width_px and prompt.height_px for prompt in prompts)


def unknown_size(module: pl.LightningModule, who: str) -> str:
    """Say that the size of the images is unknown, and what to write.

    Args:
        module: The student.
        who: The callback that draws.
    """
    return (
        f"The size of the images that {who} draws is unknown: {type(module).__name__} has no `image_size_px`, nor has "
        "EvolutionCallback or the datamodule. It is a number of pixels. Write `self.image_size_px = 512`, say, in the "
        "module."
    )


def requests_of(
    prompts: Sequence[Prompt], images_per_prompt: int, seed: int, size_px: int | None, purpose: str
) -> dict[str, tuple[ImageRequest, Prompt]]:
    """Ask for some images of each prompt, by request id.

    Args:
        prompts: What to draw.
        images_per_prompt: Seeds of each prompt.
        seed: Root of the seeds.
        size_px: Side of the images of prompts that name none. None: every prompt names its own.
        purpose: Keeps these draws apart from others of the same prompts.
    """
    requests = {}
    for prompt in prompts:
        width_px, height_px = prompt.width_px or size_px, prompt.height_px or size_px
        assert width_px is not None and height_px is not None, "the callers make sure of it"
        for index in range(images_per_prompt):
            name = digest(purpose, seed, prompt.id, index)
            drawn_from = seed_of(purpose, seed, prompt.id, index)
            requests[name] = ImageRequest(name, prompt.text, drawn_from, width_px, height_px), prompt
    return requests


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
    steps_end = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    epochs_end = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
    return bool(steps_end or epochs_end or trainer.should_stop)


def training_judges(trainer: pl.Trainer) -> list[Judge]:
    """List the judges that choose training data: those of callbacks with an attribute `judge`."""
    judges = [getattr(callback, "judge", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return [judge for judge in judges if judge is not None]


def warn_of_training_judge(trainer: pl.Trainer, reader: Judge, where: str) -> None:
    """Warn when the figures are read by the judge that chose the training data.

    Args:
        trainer: Its callbacks with an attribute `judge` are those that evolve the data.
        reader: Who reads the figures.
        where: The setting that names the reader, for the message.
    """
    for judge in training_judges(trainer):
        if models_of(judge) & models_of(reader):  # a correction or a panel does not make it another judge
            rank_zero_warn(
                f"{where} is the judge of the training data too ({reader.fingerprint}). What it gets wrong then "
                "chooses the data and counts as success: the figures may be too good. It should be a judge that is not "
                f"the training judge. Write another `class_path` or other `init_args` under `{where}`.",
            )
