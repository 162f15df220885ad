"""Send figures and pictures to all loggers of a trainer, under the same names everywhere.

Groups are written with a slash: `train/loss`, `accuracy/<skill>`, `win_rate/<teacher>`, `rounds/bought`,
`dataset/live`, `judge/error`, `cost/usd`, `previews/student_and_teacher`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from PIL import Image

from evolvedirector.callbacks._run.forgiving_logger import ForgivingLogger


def log_figures(trainer: pl.Trainer, figures: Mapping[str, Any]) -> None:
    """Send figures to the loggers at the current step, from hooks in which a module cannot log; None is left out.

    Args:
        trainer: Its loggers; a run without any is fine. Only rank 0 writes.
        figures: By name.
    """
    known = {name: float(value) for name, value in figures.items() if value is not None}
    if known:
        for logger in _forgiving(trainer):
            logger.log_metrics(known, trainer.global_step)


def log_picture(trainer: pl.Trainer, name: str, picture: Image.Image) -> None:
    """Send a picture to the loggers that take pictures, at the current step.

    Args:
        trainer: Its loggers. Only rank 0 writes.
        name: Group and name, with a slash.
        picture: RGB.
    """
    for logger in _forgiving(trainer):
        logger.log_picture(name, picture, trainer.global_step)


def _forgiving(trainer: pl.Trainer) -> list[ForgivingLogger]:
    """Return what may fail. A host's own logger keeps its class, and the forgiving one around it as an attribute."""
    if not trainer.is_global_zero:
        return []
    found = []
    for logger in trainer.loggers:
        if not isinstance(logger, ForgivingLogger):
            own = vars(logger)
            own["_forgiving"] = logger = own.get("_forgiving") or ForgivingLogger(logger)
        found.append(logger)
    return found
