"""A resume at the end of an epoch begins the next one, under `max_steps` as under `max_epochs`."""

from __future__ import annotations

import lightning.pytorch as pl


def leave_finished_epoch(trainer: pl.Trainer) -> None:
    """Take a training that resumed at the end of an epoch out of that epoch; call it in `on_train_start`.

    Under `max_steps` Lightning (2.6.6) goes through the finished epoch once more, without batches, and counts it twice:
    the next resume then calls `on_train_epoch_start` for a finished epoch, and a `max_epochs` beside it is reached too
    early. Under `max_epochs` it does what is meant; this gives both the same state.
    """
    loop = trainer.fit_loop
    if not loop.restarted_on_epoch_end:
        return
    loop.epoch_progress.increment_completed()
    loop._restart_stage = "resumed_on_epoch_end"
    loop._restarting = False
    loop.epoch_loop.restarting = False
    loop.epoch_loop.reset_restart_stage()
