"""What the callbacks that measure a run have in common: which prompts, when, and who may read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from evolvedirector.judges.judge import Judge
from evolvedirector.records import ImageRequest, Prompt, digest, seed_of


def held_out_prompts(trainer: pl.Trainer) -> list[Prompt]:
    """List the datamodule's held-out prompts; none when it has no such method."""
    prompts = getattr(getattr(trainer, "datamodule", None), "held_out_prompts", None)
    return list(prompts()) if prompts else []


def requests_of(
    prompts: Sequence[Prompt], images_per_prompt: int, seed: int, module: pl.LightningModule, purpose: str
) -> dict[str, tuple[ImageRequest, Prompt]]:
    """Ask for some images of each prompt, by request id.

    Args:
        prompts: What to draw.
        images_per_prompt: Seeds of each prompt.
        seed: Root of the seeds.
        module: Its `image_size_px` is the size of prompts that have none.
        purpose: Keeps these draws apart from others of the same prompts.

    Raises:
        RuntimeError: The size is unknown.
    """
    size = getattr(module, "image_size_px", None)
    requests = {}
    for prompt in prompts:
        width_px, height_px = prompt.width_px or size, prompt.height_px or size
        if not isinstance(width_px, int) or not isinstance(height_px, int):
            raise RuntimeError(
                f"The size of the images to draw is unknown: {type(module).__name__} has no `image_size_px`. It is a "
                "number of pixels. Write `self.image_size_px = 512`, say, in the module."
            )
        for index in range(images_per_prompt):
            name = digest(purpose, seed, prompt.id, index)
            drawn_from = seed_of(purpose, seed, prompt.id, index)
            requests[name] = ImageRequest(name, prompt.text, drawn_from, width_px, height_px), prompt
    return requests


def training_ends(trainer: pl.Trainer) -> bool:
    """Whether the epoch that ends now is the last: figures read now are part of the last checkpoint."""
    steps_end = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    epochs_end = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
    return bool(steps_end or epochs_end or trainer.should_stop)


def warn_of_training_judge(trainer: pl.Trainer, reader: Judge, where: str) -> None:
    """Warn when the figures are read by the judge that chose the training data.

    Args:
        trainer: Its callbacks with an attribute `judge` are those that evolve the data.
        reader: Who reads the figures.
        where: The setting that names the reader, for the message.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        judge = getattr(callback, "judge", None)
        if judge is not None and judge.fingerprint == reader.fingerprint:
            rank_zero_warn(
                f"{where} is the judge of the training data too ({reader.fingerprint}). What it gets wrong then "
                "chooses the data and counts as success: the figures may be too good. It should be a judge that is not "
                f"the training judge. Write another `class_path` or other `init_args` under `{where}`.",
            )


def log_figures(trainer: pl.Trainer, figures: Mapping[str, Any]) -> None:
    """Send figures to the loggers at the current step, from hooks in which a module cannot log; None is left out."""
    known = {name: float(value) for name, value in figures.items() if value is not None}
    if known and trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(known, step=trainer.global_step)
