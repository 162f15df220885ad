"""Which epochs end with a round, and how many rounds a training leaves room for."""

from __future__ import annotations

from dataclasses import dataclass

from evolvedirector.errors import UserError


@dataclass(frozen=True, slots=True)
class RoundSchedule:
    """Hold a round after every so many epochs, as long as somebody will train on what it buys.

    Args:
        every_n_epochs: Epochs between rounds.
        max_rounds: Rounds in all. None: as many as there is room for.
        first_rounds: Of these, how many are held before the first training step.
        epochs_in_flight: Epochs that are trained between the opening of a round and the first one that reads it.

    Raises:
        UserError: A number out of range.
    """

    every_n_epochs: int
    max_rounds: int | None
    first_rounds: int = 0
    epochs_in_flight: int = 0

    def __post_init__(self) -> None:
        numbers = {
            "every_n_epochs": (self.every_n_epochs, 1),
            "max_rounds": (self.max_rounds, 0),
            "first_rounds": (self.first_rounds, 0),
        }
        for name, (value, least) in numbers.items():
            if value is not None and value < least:
                raise UserError(f"{name} is {value}. Allowed: {least} or more. Write `{name}: 1`, say.")
        if self.max_rounds is not None and self.first_rounds > self.max_rounds:
            raise UserError(
                f"first_rounds is {self.first_rounds} and max_rounds {self.max_rounds}, which counts them. Allowed "
                f"is a max_rounds from {self.first_rounds} up. Write `max_rounds: {self.first_rounds}`, or null."
            )
        if self.epochs_in_flight > self.every_n_epochs:
            raise UserError(
                f"A round in the background takes {self.epochs_in_flight} epochs (write_epochs and stale_epochs), but "
                f"every_n_epochs is {self.every_n_epochs}: it would not be over when the next one is due. Allowed are "
                f"as many at most. Write `every_n_epochs: {self.epochs_in_flight}` or more."
            )

    def is_due(self, epochs_done: int, rounds_done: int, trains_on: bool) -> bool:
        """Say whether a round follows the epoch that has just ended.

        Args:
            epochs_done: That epoch included.
            rounds_done: Rounds of the run so far.
            trains_on: Whether training goes on after it; else nobody would train on what the round buys.
        """
        if not trains_on or (self.max_rounds is not None and rounds_done >= self.max_rounds):
            return False
        return epochs_done % self.every_n_epochs == 0

    def comes_first(self, global_step: int, rounds_done: int) -> bool:
        """Say whether a round is held now, before the first training step.

        Args:
            global_step: Optimizer steps so far.
            rounds_done: Rounds of the run so far.
        """
        return global_step == 0 and rounds_done < self.first_rounds

    def told(self) -> str:
        """Say in words when rounds are held."""
        first = f"{self.first_rounds} before training, " if self.first_rounds else ""
        most = "" if self.max_rounds is None else f", at most {self.max_rounds}"
        return f"{first}every {self.every_n_epochs} epochs{most}"

    def planned_rounds(self, max_epochs: int | None, max_steps: int, steps_per_epoch: int | None) -> int | None:
        """Return how many rounds there will be; a policy spreads its purchases over them. None: no end is set.

        Args:
            max_epochs: Limit of the training; None and -1 are no end.
            max_steps: Limit in optimizer steps; -1 is no end.
            steps_per_epoch: Optimizer steps between two epoch ends. None: unknown.
        """
        epochs = max_epochs if max_epochs not in (None, -1) else None
        if max_steps != -1 and steps_per_epoch is not None:
            by_steps = -(-max_steps // max(1, steps_per_epoch))
            epochs = by_steps if epochs is None else min(epochs, by_steps)
        if epochs is None:
            return self.max_rounds
        rounds = self.first_rounds + max(0, (epochs - 1 - self.epochs_in_flight) // self.every_n_epochs)
        return rounds if self.max_rounds is None else min(rounds, self.max_rounds)
