"""How often a judge is right about single images, as two numbers, and what its looks say about the truth then."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

LEAST_YOUDEN = 0.1
"""Sensitivity + specificity - 1 from which on looks are used: n looks say as much as n J^2 exact ones, here n / 100."""
Z_95 = 1.96
"""Standard deviations of a normal distribution on both sides of its mean that hold 95 %."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many prompts were looked at with a readable answer, and how many of them the student failed."""

    looked: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class JudgeAccuracy:
    """How often a judge's `check` is right: of images that lack their prompt, and of images that show it.

    The positive class is *failed*: an image that lacks its prompt. Both numbers are None where no gold set was read: a
    judge that passes canaries makes no gross mistakes, and more is not known. Then nothing is corrected.

    Args:
        sensitivity: Share of images that lack their prompt of which the judge says so, 0 to 1.
        specificity: Share of images that show their prompt of which the judge says so, 0 to 1.
        lacks: How many images that lack their prompt the sensitivity was counted over; 0: taken as exact.
        shows: How many images that show it the specificity was counted over; 0: taken as exact.
    """

    sensitivity: float | None = None
    specificity: float | None = None
    lacks: int = 0
    shows: int = 0

    @classmethod
    def counted(cls, lacks: Tally, shows: Tally) -> JudgeAccuracy:
        """Count it over images whose truth is known; unknown while either class was not read.

        Args:
            lacks: Images that lack their prompt; failed: the judge says they show it.
            shows: Images that show it; failed: the judge says they lack it.
        """
        if not lacks.looked or not shows.looked:
            return cls()
        return cls(1 - lacks.failed / lacks.looked, 1 - shows.failed / shows.looked, lacks.looked, shows.looked)

    @classmethod
    def of_error(cls, error: float) -> JudgeAccuracy:
        """Make one of the share of wrong looks that ledgers held while it was one number: both classes err alike.

        Args:
            error: 0 to 1.
        """
        return cls(1 - error, 1 - error)

    @property
    def is_known(self) -> bool:
        """Whether both numbers were measured."""
        return self.sensitivity is not None and self.specificity is not None

    @property
    def rates(self) -> tuple[float, float]:
        """Return (sensitivity, specificity) to reckon with: those of an exact judge where nothing is known."""
        if self.sensitivity is None or self.specificity is None:
            return 1.0, 1.0
        return self.sensitivity, self.specificity

    @property
    def youden(self) -> float:
        """Return J = sensitivity + specificity - 1: 1 for an exact judge, 0 for a coin (Youden 1950)."""
        sensitivity, specificity = self.rates
        return sensitivity + specificity - 1

    @property
    def says_something(self) -> bool:
        """Whether the truth can be told from looks; where it cannot, they are not used. NaN says nothing."""
        return self.youden >= LEAST_YOUDEN

    @property
    def correction(self) -> Literal["made", "unknown", "impossible"]:
        """Say whether shares of looks are corrected: `impossible` where J is not over 0, or hardly so."""
        return "unknown" if not self.is_known else "made" if self.says_something else "impossible"

    @property
    def error(self) -> float:
        """Return the share of wrong looks where both classes are as frequent, 0 to 1; 0 where it is not known."""
        return (1 - self.youden) / 2

    def swapped(self) -> JudgeAccuracy:
        """Return the accuracy with the classes exchanged: for counts of images that show their prompt."""
        return JudgeAccuracy(self.specificity, self.sensitivity, self.shows, self.lacks)

    def apparent(self, share: float) -> float:
        """Return the share of looks that say *failed* under a true one: f Se + (1 - f) (1 - Sp).

        Args:
            share: f, 0 to 1.
        """
        sensitivity, specificity = self.rates
        return share * sensitivity + (1 - share) * (1 - specificity)

    def corrected(self, tally: Tally) -> float | None:
        """Return the true failed share that looks speak for; None where they say nothing.

        p = (a + Sp - 1) / (Se + Sp - 1), with the apparent share a, the sensitivity Se and the specificity Sp (Rogan
        and Gladen 1978, Am. J. Epidemiol. 107, p. 71). It is not clipped: over many counts its mean is the truth, and
        what lies under 0 by chance makes up for what lies as far above. Average first; who needs a share clips last.

        Args:
            tally: Readable looks and how many of them say failed.
        """
        if tally.looked <= 0 or not self.says_something:
            return None
        _, specificity = self.rates
        return (tally.failed / tally.looked - (1 - specificity)) / self.youden

    def interval(self, tally: Tally, z: float = Z_95) -> tuple[float, float] | None:
        """Return the interval of the true failed share, that of sensitivity and specificity included; None as above.

        Lang and Reiczigel 2014, Prev. Vet. Med. 113, p. 13: with a', Se', Sp' drawn towards one half,

            p' = (a' + Sp' - 1) / (Se' + Sp' - 1)
            shift = 2 z^2 (p' Se' (1 - Se') / n_Se' - (1 - p') Sp' (1 - Sp') / n_Sp')
            half = z sqrt(a' (1 - a') / n' + p'^2 Se' (1 - Se') / n_Se' + (1 - p')^2 Sp' (1 - Sp') / n_Sp') / J'

        and the interval is p' + shift -+ half, within 0 to 1.

        Args:
            tally: Readable looks and how many of them say failed.
            z: Standard deviations on each side.
        """
        if tally.looked <= 0 or not self.says_something:
            return None
        looked = tally.looked + z * z
        apparent = (tally.failed + z * z / 2) / looked
        sensitivity, of_sensitivity = _drawn_in(self.rates[0], self.lacks)
        specificity, of_specificity = _drawn_in(self.rates[1], self.shows)
        youden = sensitivity + specificity - 1
        if youden <= 0:
            return 0.0, 1.0
        share = (apparent + specificity - 1) / youden
        shift = 2 * z * z * (share * of_sensitivity - (1 - share) * of_specificity)
        spread = apparent * (1 - apparent) / looked + share**2 * of_sensitivity + (1 - share) ** 2 * of_specificity
        half = z * math.sqrt(spread) / youden
        low, high = min(1.0, max(0.0, share + shift - half)), min(1.0, max(0.0, share + shift + half))
        return low, high


def _drawn_in(rate: float, looked: int) -> tuple[float, float]:
    """Return a rate with one right and one wrong answer added, and its variance; as it is where it was not counted."""
    if not looked:
        return rate, 0.0
    drawn = (rate * looked + 1) / (looked + 2)
    return drawn, drawn * (1 - drawn) / (looked + 2)


def clipped(share: float) -> float:
    """Return a corrected share where a share is needed: from 0 to 1.

    Args:
        share: As `JudgeAccuracy.corrected` or an average of such gives it.
    """
    return min(1.0, max(0.0, share))
