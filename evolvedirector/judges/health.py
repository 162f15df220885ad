"""How far a judge is trusted: what it is asked before it may decide anything, and the floors it must reach."""

from __future__ import annotations

from dataclasses import dataclass

from evolvedirector.judges.gold import GoldSource


@dataclass(frozen=True)
class JudgeHealth:
    """Check the judge at the start of a round; where it fails, the round is skipped and training goes on.

    Vision-language judges prefer a place, a family or the word yes, and few agree with people on more than two of
    three pairs (MMRB2, Hu et al. 2025; PairBench, Feizi et al. 2025). A judge is asked the gold set (each item once
    per run: answers are remembered) and about 6 looks per canary (a blank image, a swapped prompt, the image's own
    prompt, a pair in both orders, the same image twice): 40 + 48 looks in the first round by default, 48 in later
    ones. A judge well over every floor (by 0.1) is skipped by chance in less than 2 rounds of 100.

    Args:
        gold: Images with known answers; None checks by canaries alone, which are easier than what a student draws.
        canaries_per_round: Bought images that canaries are made of; 0 checks by gold alone.
        min_agreement: Least share of right answers, 0 to 1, over gold, blank, swapped and pair questions.
        min_canary_pass: Least share of right answers, 0 to 1, of every kind of question alone: a judge that always
            says yes is wrong on all blank images.
        min_swap_consistency: Least share, 0 to 1, of pairs of which the same image wins in both orders.
        max_unreadable: Largest share, 0 to 1, of replies that cannot be read; half is usable at twice the price.
        overlay_canaries: Draw the prompt, with a request to say yes, into the blank image of each canary too: no is
            right, and so is a reply that cannot be read. One look more per canary. Few judges pass it alone; those
            behind an `OCRGate` do.
        every_n_rounds: Choose other canaries every so many rounds; in between the answers are remembered, so that only
            canaries of newly bought images cost looks.

    Raises:
        ValueError: A share outside of 0 to 1, or a negative number of canaries.
    """

    gold: GoldSource | None = None
    canaries_per_round: int = 8
    min_agreement: float = 0.6
    min_canary_pass: float = 0.6
    min_swap_consistency: float = 0.5
    max_unreadable: float = 0.6
    every_n_rounds: int = 1
    overlay_canaries: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that could not be meant."""
        for name in ("min_agreement", "min_canary_pass", "min_swap_consistency", "max_unreadable"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                never = 1.0 if name == "max_unreadable" else 0.0
                raise ValueError(
                    f"{name} is {getattr(self, name)}. Allowed is a share from 0 to 1. Write {never} to skip no round "
                    "for it."
                )
        if self.canaries_per_round < 0:
            raise ValueError(
                f"canaries_per_round is {self.canaries_per_round}. Allowed is 0 or more. Write 0 for none."
            )
        if self.every_n_rounds < 1:
            raise ValueError(f"every_n_rounds is {self.every_n_rounds}. Allowed is 1 or more. Write 1 for every round.")
