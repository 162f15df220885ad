"""Intervals of measured shares."""

from __future__ import annotations

import math


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
