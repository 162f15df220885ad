"""Shares measured on a few prompts, with intervals that say how few they were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolvedirector.evaluation.intervals import wilson_interval


@dataclass(frozen=True, slots=True)
class Share:
    """A share of prompts (drawn as asked, won, forgotten) with its 95 % interval."""

    value: float
    low: float
    high: float
    prompts: int
    """Different prompts behind it; each may have been drawn several times."""

    @property
    def interval(self) -> list[float]:
        """Return low and high ends, rounded for a report."""
        return [round(self.low, 6), round(self.high, 6)]


def share_of_prompts(outcomes: Sequence[Sequence[float]]) -> Share | None:
    """Measure a share over prompts that were tried several times each; None without any.

    Tries of one prompt resemble each other, so they are no independent trials. Prompts are clusters here:
    the variance of the share is that of the n prompt means, var = s^2 / n, and Wilson's score interval (1927) is taken
    at the number of independent trials that would have this variance,
    n_eff = p (1 - p) / var, kept between the prompts and the tries (Korn and Graubard 1998). One try per prompt gives
    Wilson's interval itself; where every try succeeds, or none, var tells nothing and n_eff is the number of prompts.

    Args:
        outcomes: For each prompt its tries, each 0 to 1 (a tie counts as 0.5). Prompts without a try are left out.
    """
    means = [sum(tries) / len(tries) for tries in outcomes if tries]
    if not means:
        return None
    prompts, tries = len(means), sum(len(tries) for tries in outcomes)
    value = sum(means) / prompts
    effective = float(prompts)
    if prompts > 1 and 0 < value < 1:
        variance = sum((mean - value) ** 2 for mean in means) / (prompts - 1) / prompts
        effective = min(max(value * (1 - value) / max(variance, 1e-12), prompts), tries)
    low, high = wilson_interval(value * effective, effective) or (0.0, 1.0)
    return Share(value, low, high, prompts)


def mean_of_shares(shares: Mapping[str, Share]) -> Share | None:
    """Average shares over skills, each skill counting once (GenEval's convention); None without any.

    The intervals are combined from the single ones (Zou and Donner 2008):
    low = mean - sqrt(sum (p_i - low_i)^2) / n, high = mean + sqrt(sum (high_i - p_i)^2) / n.

    Args:
        shares: By skill.
    """
    if not shares:
        return None
    count = len(shares)
    value = sum(share.value for share in shares.values()) / count
    below = math.sqrt(sum((share.value - share.low) ** 2 for share in shares.values())) / count
    above = math.sqrt(sum((share.high - share.value) ** 2 for share in shares.values())) / count
    return Share(value, max(0.0, value - below), min(1.0, value + above), sum(s.prompts for s in shares.values()))
