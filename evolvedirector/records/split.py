"""Which prompts are trained on and which are kept to validate, by a draw of each, so that both parts stay."""

from __future__ import annotations

from dataclasses import dataclass

from evolvedirector.errors import UserError
from evolvedirector.records.names import prompt_id_of, seed_of

_RANGE = 2**63


@dataclass(frozen=True, slots=True)
class Split:
    """Take one of two parts of the prompts; those of one text are in one of them with all of their samples.

    Each text falls by its own draw, so one that enters later moves no other. By the text and not by the prompt's id:
    an import may give one text several, and what validates would then be trained on.

    Args:
        share: Of the prompts in the part that validates, over 0 and under 1; about so many.
        seed: Names the draw.
        validates: Take this part; false: take the other one.

    Raises:
        UserError: The share is out of range.
    """

    share: float
    seed: int
    validates: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(
                f"The validation share is {self.share}. Allowed: over 0 and under 1. Write 0.05, say, or leave it out."
            )

    def takes(self, text: str) -> bool:
        """Say whether a prompt belongs to the part.

        Args:
            text: Of the prompt.
        """
        return (seed_of("validation", self.seed, prompt_id_of(text)) < self.share * _RANGE) == self.validates
