"""What a checkpoint holds of a round in the background that is under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from evolvedirector.evolution.background_rounds import BackgroundRounds
from evolvedirector.records import RoundInfo


def opened_beside(settings: BackgroundRounds | None, epochs_done: int) -> dict[str, Any]:
    """Return what a checkpoint holds of a round in the background, beside its name; nothing of another one.

    Args:
        settings: How far rounds lag behind. None: training waits for them.
        epochs_done: Epochs done as it opens.
    """
    return {} if settings is None else {"opened_epoch": epochs_done, "drawn": False}


def still_beside(
    pending: Mapping[str, Any], info: RoundInfo, trainer: pl.Trainer, settings: BackgroundRounds | None
) -> dict[str, Any]:
    """Return what is known of a checkpoint's round in the background as training goes on; nothing of another one.

    Where other parts take part now, it is another round, and the student draws anew when the next epoch ends.

    Args:
        pending: What the checkpoint holds of it.
        info: The round, under the name that it has now.
        trainer: Knows where training stands.
        settings: How far rounds lag behind now. None: training waits for them.
    """
    if settings is None or "opened_epoch" not in pending:
        return {}
    if pending["round_id"] == info.round_id:
        return {"opened_epoch": pending["opened_epoch"], "drawn": pending["drawn"]}
    at_opening = trainer.global_step == info.global_step
    opened_epoch = pending["opened_epoch"] if at_opening else trainer.current_epoch + 1 - settings.write_epochs
    return opened_beside(settings, opened_epoch)
