"""Intervals of measured shares."""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson_interval(wins: float, trials: float, z: float = 1.96) -> tuple[float, float] | None:
    """Return the 95 % score interval of a share (Wilson 1927); None without trials.

    centre = (p + z^2 / 2n) / (1 + z^2 / n), half width = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4 n^2)
    """
    if trials == 0:
        return None
    share = wins / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float], z: float = 1.96) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean of independent values, mean +- z s / sqrt(n); None for fewer than two.

    Args:
        values: One per prompt: images of one prompt resemble each other, so their mean comes in here.
        z: Standard deviations of the wanted coverage.
    """
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = z * math.sqrt(variance / len(values))
    return mean - half, mean + half


def jackknife_interval(whole: float, parts: Sequence[float], z: float = 1.96) -> tuple[float, float] | None:
    """Return the 95 % interval of a figure from its values without one of g equal groups each; None for fewer than two.

    Delete-a-group jackknife (Efron and Tibshirani 1993, chapter 11): var = (g - 1) / g sum_i (v_i - mean(v))^2.

    Args:
        whole: The figure over everything.
        parts: The figure without the i-th group.
        z: Standard deviations of the wanted coverage.
    """
    groups = len(parts)
    if groups < 2:
        return None
    mean = sum(parts) / groups
    half = z * math.sqrt((groups - 1) / groups * sum((part - mean) ** 2 for part in parts))
    return whole - half, whole + half
