"""How much of a round's and an epoch's time the student idles: neither trains nor draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopTime:
    """What one round takes beside the training.

    Args:
        boundary_s: Of each end of an epoch, from the one that opens the round to the one that takes its revision.
        drawing_s: In these, the student draws.
        epoch_s: Of an epoch.
        epochs_beside: Epochs that are trained while the round is under way; 0 where training waits for it.
        every_n_epochs: Epochs between two rounds. None: the round is held once, before training.
    """

    boundary_s: Sequence[float]
    drawing_s: float
    epoch_s: float
    epochs_beside: int = 0
    every_n_epochs: int | None = 1

    @property
    def idle_s(self) -> float:
        """Seconds for which training waits, without drawing, in all of the round."""
        return max(0.0, sum(self.boundary_s) - self.drawing_s)

    @property
    def round_s(self) -> float:
        """Seconds from the opening of the round until its revision is read, epochs beside it included."""
        return sum(self.boundary_s) + self.epochs_beside * self.epoch_s

    @property
    def idle_share_of_round(self) -> float:
        """Idle over the time of the round."""
        return self.idle_s / self.round_s if self.round_s else 0.0

    @property
    def epoch_with_rounds_s(self) -> float | None:
        """Seconds of an epoch with its share of a round; None where rounds come before training alone."""
        if self.every_n_epochs is None:
            return None
        return self.epoch_s + sum(self.boundary_s) / self.every_n_epochs

    @property
    def idle_share_of_epoch(self) -> float | None:
        """Idle over the time of an epoch with its share of a round; None as for `epoch_with_rounds_s`."""
        if self.every_n_epochs is None or not self.epoch_with_rounds_s:
            return None
        return self.idle_s / self.every_n_epochs / self.epoch_with_rounds_s
