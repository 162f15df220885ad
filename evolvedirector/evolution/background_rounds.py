"""How far rounds in the background may lag behind the training that goes on beside them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from evolvedirector.errors import UserError


@dataclass(frozen=True, slots=True)
class BackgroundRounds:
    """Count the epochs that a round in the background takes, and what is drawn for it beforehand.

    A round opens at an epoch's end, the student draws `write_epochs` later, and `stale_epochs` after that the next
    epoch reads what the round published; training waits there where it is not ready. So which revision an epoch reads
    follows from these numbers and not from the clock, and a run can be repeated.

    Args:
        stale_epochs: Epochs that are trained between the student's drawings and the first epoch on what was bought for
            them; at the end of the last one training waits. 0: as between epochs.
        write_epochs: Epochs between the opening of a round and the drawings, for a judge that is checked and a writer
            that writes meanwhile. 0: both happen while training waits.
        spare_drawings: Further drawings of each candidate, made with the first one, for a policy that looks again where
            it is in doubt: the student, which trains on, cannot draw any later.
        as_soon_as_ready: Read a revision at the first epoch's end at which it is there, at the latest after
            `stale_epochs`. The data is fresher then, and the same run may go another way when it is repeated.

    Raises:
        UserError: A number is below 0.
    """

    stale_epochs: int = 1
    write_epochs: int = 0
    spare_drawings: int = 1
    as_soon_as_ready: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and value < 0:
                raise UserError(f"{field.name} is {value}. Allowed: 0 or more. Write `{field.name}: 1`, say.")

    @property
    def epochs(self) -> int:
        """From the opening of a round to the first epoch that reads its revision."""
        return self.write_epochs + self.stale_epochs

    def told(self) -> str:
        """Say in words how rounds lag behind."""
        written = f"written in {self.write_epochs}, " if self.write_epochs else ""
        rule = "as soon as it is ready, at most" if self.as_soon_as_ready else "always"
        return f"in the background ({written}read {rule} {self.stale_epochs} epochs after the drawings)"
