"""What a check of the judge measured, how wrong it is, and whether a round may trust it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evolvedirector.errors import UserError
from evolvedirector.judges.health.gold import GoldSource
from evolvedirector.records import JudgeAccuracy, Tally


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
        UserError: A share outside of 0 to 1, or a negative number of canaries.
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
                raise UserError(
                    f"{name} is {getattr(self, name)}. Allowed is a share from 0 to 1. Write {never} to skip no round "
                    "for it."
                )
        if self.canaries_per_round < 0:
            raise UserError(f"canaries_per_round is {self.canaries_per_round}. Allowed is 0 or more. Write 0 for none.")
        if self.every_n_rounds < 1:
            raise UserError(f"every_n_rounds is {self.every_n_rounds}. Allowed is 1 or more. Write 1 for every round.")


CLEARLY_OVER = 0.1
"""A judge this much over a floor is skipped by no more than the chances below."""
CHANCE_AGREEMENT = 0.01
CHANCE_OTHER = 0.0017
"""A sixth of it for each of the seven other checks: about 2 % together at most, 1.2 % in simulation at 30 % error."""
NOTHING = Tally()


def lower_tail(passed: int, asked: int, share: float) -> float:
    """Return the probability of `passed` or fewer out of `asked` when each passes with probability `share`.

    Summed from logarithms: a binomial coefficient of 2000 questions is no float.

    Args:
        passed: At least 0.
        asked: At least `passed`.
        share: 0 to 1.
    """
    if passed >= asked or share <= 0.0:
        return 1.0
    if share >= 1.0:
        return 0.0
    log_odds, log_none = math.log(share) - math.log1p(-share), asked * math.log1p(-share)
    logs = (
        math.lgamma(asked + 1) - math.lgamma(k + 1) - math.lgamma(asked - k + 1) + k * log_odds + log_none
        for k in range(passed + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


def chance_below(tally: Tally, floor: float) -> float:
    """Return how likely a judge clearly over the floor (by 0.1, or half of what is left to 1) does so badly by chance.

    A plain comparison with the floor would skip a judge that is right in 70 % of cases in 6 % of the rounds when 40
    questions are asked, and in 20 % of them when 8 are. 1 where nothing was measured or the share reaches the floor.

    Args:
        tally: Questions answered and failed.
        floor: Least share of passed questions, 0 to 1.
    """
    passed = tally.looked - tally.failed
    if tally.looked == 0 or passed >= floor * tally.looked:
        return 1.0
    return lower_tail(passed, tally.looked, min(floor + CLEARLY_OVER, (1.0 + floor) / 2))


def together(*tallies: Tally) -> Tally:
    """Add tallies."""
    return Tally(sum(tally.looked for tally in tallies), sum(tally.failed for tally in tallies))


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Hold what was measured of a judge in one round; a tally of nothing was not measured."""

    gold_shows: Tally = NOTHING
    """Gold images that show their prompt; failed: the judge said they do not."""
    gold_lacks: Tally = NOTHING
    """Gold images that do not show their prompt."""
    blank: Tally = NOTHING
    """A uniform image shows no prompt."""
    swapped: Tally = NOTHING
    """A bought image does not show the prompt of another."""
    own: Tally = NOTHING
    """A bought image shows its own prompt, unless its teacher was wrong."""
    pairs: Tally = NOTHING
    """Looks at (own image, other image): the own image fits better."""
    swaps: Tally = NOTHING
    """Such pairs in both orders; failed: the orders disagree."""
    same: Tally = NOTHING
    """The same image twice; failed: one place is preferred."""
    position_bias: float = 0.0
    """Share of `first` among looks at the same image twice, less 1/2; -1/2 to 1/2, undecided counts half."""
    looks: int = 0
    """Answers used, remembered ones included."""
    unreadable: int = 0
    """How many of them could not be read."""
    asked_now: int = 0
    """Answers given now: an earlier round's are remembered."""
    unread_now: int = 0
    """How many of them could not be read."""
    overlay: Tally = NOTHING
    """A uniform image with the prompt written on it shows no prompt; a look that cannot be read is right too."""

    @property
    def single_images(self) -> Tally:
        """Answers about single images whose truth is known; a teacher may be wrong, so `own` is the last resort."""
        gold = together(self.gold_shows, self.gold_lacks)
        return together(gold, self.blank, self.swapped, NOTHING if gold.looked else self.own)

    @property
    def is_silent(self) -> bool:
        """Whether nothing could be read of what the judge was asked now: it is down, or no judge."""
        return self.asked_now > 0 and self.unread_now == self.asked_now

    @property
    def accuracy(self) -> JudgeAccuracy:
        """Sensitivity and specificity over the gold set; unknown without one, however many canaries passed.

        Canaries are easier than what a student draws, and a teacher may be wrong about its own prompt: answers to
        them show gross mistakes, and no more.
        """
        return JudgeAccuracy.counted(lacks=self.gold_lacks, shows=self.gold_shows)

    @property
    def canaries(self) -> Tally:
        """Answers about single canaries: blank, swapped and own."""
        return together(self.blank, self.swapped, self.own)

    def to_figures(self) -> dict[str, float]:
        """Name what was measured, for the round's row in the ledger."""
        shares = {
            "agreement": together(self.gold_shows, self.gold_lacks),
            "gold shown": self.gold_shows,
            "gold not shown": self.gold_lacks,
            "canary blank": self.blank,
            "canary overlay": self.overlay,
            "canary swapped": self.swapped,
            "canary own": self.own,
            "canary same": self.same,
            "pairs": self.pairs,
            "swap consistency": self.swaps,
        }
        figures = {name: _share(tally) for name, tally in shares.items() if tally.looked}
        if self.same.looked:
            figures["position bias"] = self.position_bias
        if self.looks:
            figures["unreadable"] = self.unreadable / self.looks
            figures["health looks"] = float(self.looks)
        accuracy = self.accuracy
        if accuracy.sensitivity is not None and accuracy.specificity is not None:
            figures |= {"sensitivity": accuracy.sensitivity, "sensitivity looks": float(accuracy.lacks)}
            figures |= {"specificity": accuracy.specificity, "specificity looks": float(accuracy.shows)}
        if self.canaries.looked:
            figures["canaries"] = float(self.canaries.looked)
            figures["canaries right"] = float(self.canaries.looked - self.canaries.failed)
        return figures

    def problem(self, settings: JudgeHealth) -> str | None:
        """Say why this judge may not decide a round, with the figures and what to do; None where it may.

        Args:
            settings: The floors.
        """
        alone = settings.min_canary_pass
        said_yes = "it says yes to images that do not show it; ask a stricter question or another judge"
        said_no = "it says no to images that show it; ask a simpler question or another judge"
        checks = [
            (Tally(self.looks, self.unreadable), "readable replies", 1.0 - settings.max_unreadable, "max_unreadable",
             "constrain its answers to yes and no, or ask another judge"),
            (self.gold_lacks, "right answers on gold images that do not show their prompt", alone, "", said_yes),
            (self.blank, "right answers on blank images", alone, "", said_yes),
            (self.overlay, "right answers on blank images with the prompt written on them", alone, "",
             "it believes what is written in an image; put it behind an OCRGate, or leave overlay_canaries out"),
            (self.swapped, "right answers on swapped prompts", alone, "", said_yes),
            (self.gold_shows, "right answers on gold images that show their prompt", alone, "", said_no),
            (self.own, "right answers on bought images with their own prompt", alone, "", said_no),
            (self.swaps, "pairs judged alike in both orders", settings.min_swap_consistency, "min_swap_consistency",
             f"it prefers a place (position bias {self.position_bias:+.2f}); ask another judge"),
        ]  # fmt: skip
        if self.is_silent:  # whatever floors say: nobody is left to ask
            advice = "it answers nothing at present; see that it runs, and that address, key and model are right"
            return _message(Tally(self.asked_now, self.unread_now), "readable replies", 0.0, "", advice)
        for tally, what, floor, name, advice in checks:
            if chance_below(tally, floor) < CHANCE_OTHER:
                return _message(tally, what, floor, name or "min_canary_pass", advice)
        every = together(self.single_images, self.pairs)
        if chance_below(every, settings.min_agreement) < CHANCE_AGREEMENT:
            advice = "it is hardly better than a coin; ask another judge, or correct the gold set"
            return _message(every, "right answers in all", settings.min_agreement, "min_agreement", advice)
        return None


def _share(tally: Tally) -> float:
    return (tally.looked - tally.failed) / tally.looked


def _message(tally: Tally, what: str, floor: float, name: str, advice: str) -> str:
    if not name:
        return f"The judge gave {tally.looked - tally.failed} of {tally.looked} {what}: {advice}."
    allowed = f"max_unreadable={1.0 - floor:g}" if name == "max_unreadable" else f"{name}={floor:g}"
    return (
        f"The judge gave {tally.looked - tally.failed} of {tally.looked} {what}. Clearly over {floor:.0%} are needed "
        f"({allowed}): {advice}."
    )
