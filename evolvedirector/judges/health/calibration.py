"""How far a judge's probabilities can be taken at their word, and what puts them right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evolvedirector.errors import UserError

LEAST_PROBABILITY = 1e-3
"""A judge that answers in words says 0 or 1; its log-odds are taken at this distance from them."""
MOST_TEMPERATURE = 20.0
SLOPE_PRIOR = 16.0
OFFSET_PRIOR = 4.0
"""Precisions: before any answer, the slope is 1 with a deviation of 1/4, the offset 0 with one of 1/2."""
_MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class Calibration:
    """Put log-odds right: z' = (z - shift) / temperature."""

    temperature: float = 1.0
    """Over 1: the judge is surer than it is right."""
    shift: float = 0.0
    """Log-odds at which the judge is undecided: over 0, it says yes (or: the first) too often."""


def log_odds(probability: float) -> float:
    """Return log p / (1 - p), bounded.

    Args:
        probability: 0 to 1.
    """
    bounded = min(max(probability, LEAST_PROBABILITY), 1.0 - LEAST_PROBABILITY)
    return math.log(bounded / (1.0 - bounded))


def probability_of(odds: float) -> float:
    """Return 1 / (1 + exp(-z)), without overflow.

    Args:
        odds: Log-odds.
    """
    return 1.0 / (1.0 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1.0 + math.exp(odds))


def calibrated(probability: float, calibration: Calibration) -> float:
    """Put one probability right; a calibration of temperature 1 and shift 0 leaves it as it is.

    Args:
        probability: What the judge said, 0 to 1.
        calibration: How to read it.
    """
    if calibration == Calibration():
        return probability
    return probability_of((log_odds(probability) - calibration.shift) / calibration.temperature)


def fit_calibration(probabilities: Sequence[float], truths: Sequence[bool]) -> Calibration:
    """Find the temperature and shift under which known answers are likeliest.

    Logistic regression of the truth on the log-odds (Platt 1999; temperature alone: Guo et al. 2017, sec. 4.2):
    min over a, b of -sum log P(y_i | a z_i + b) + (16 (a - 1)^2 + 4 b^2) / 2, with temperature 1 / a and shift -b / a.
    The last term says that the judge is right until shown otherwise: a handful of answers moves it little. For pairs
    give both orders, the truth being whether the first fits better: the shift then is the preference for a place.

    Args:
        probabilities: What the judge said, 0 to 1; readable answers only.
        truths: Whether the answer is yes (for a pair: the first).

    Raises:
        UserError: The judge says the contrary of what is true, so no temperature helps.
    """
    odds = [log_odds(probability) for probability in probabilities]
    slope, offset = 1.0, 0.0
    for _ in range(_MAX_STEPS):
        step = _newton_step(odds, truths, slope, offset)
        scale = 1.0
        now = _loss(odds, truths, slope, offset)
        while scale > 1e-6 and _loss(odds, truths, slope - scale * step[0], offset - scale * step[1]) > now:
            scale /= 2
        slope, offset = slope - scale * step[0], offset - scale * step[1]
        if scale * max(map(abs, step)) < 1e-9:
            break
    if slope < 1.0 / MOST_TEMPERATURE:
        raise UserError(
            f"The judge's answers say nothing about the truth, or its contrary (slope {slope:.2f} over {len(odds)} "
            f"known answers). Allowed: {1 / MOST_TEMPERATURE} or more. Ask another judge, or correct the gold set."
        )
    return Calibration(1.0 / slope, -offset / slope)


def _loss(odds: Sequence[float], truths: Sequence[bool], slope: float, offset: float) -> float:
    signed = ((slope * z + offset) * (1 if truth else -1) for z, truth in zip(odds, truths, strict=True))
    # -log sigmoid(x) = log(1 + exp(-x)), written so that exp never overflows
    likely = sum(max(-x, 0.0) + math.log1p(math.exp(-abs(x))) for x in signed)
    return likely + (SLOPE_PRIOR * (slope - 1) ** 2 + OFFSET_PRIOR * offset**2) / 2


def _newton_step(odds: Sequence[float], truths: Sequence[bool], slope: float, offset: float) -> tuple[float, float]:
    """Return H^-1 g of the loss; the prior keeps H positive definite."""
    gradient, hessian = [SLOPE_PRIOR * (slope - 1.0), OFFSET_PRIOR * offset], [SLOPE_PRIOR, 0.0, OFFSET_PRIOR]
    for z, truth in zip(odds, truths, strict=True):
        p = probability_of(slope * z + offset)
        error, weight = p - truth, p * (1.0 - p)
        gradient = [gradient[0] + error * z, gradient[1] + error]
        hessian = [hessian[0] + weight * z * z, hessian[1] + weight * z, hessian[2] + weight]
    determinant = hessian[0] * hessian[2] - hessian[1] ** 2
    return (
        (hessian[2] * gradient[0] - hessian[1] * gradient[1]) / determinant,
        (hessian[0] * gradient[1] - hessian[1] * gradient[0]) / determinant,
    )


def brier_score(probabilities: Sequence[float], truths: Sequence[bool]) -> float:
    """Return the mean squared distance of probability and truth (Brier 1950); 0 is best, 0.25 is a coin.

    Args:
        probabilities: At least one, 0 to 1.
        truths: What is true.
    """
    return sum((p - truth) ** 2 for p, truth in zip(probabilities, truths, strict=True)) / len(probabilities)


def reliability(
    probabilities: Sequence[float], truths: Sequence[bool], bins: int = 10
) -> list[tuple[float, float, int]]:
    """Compare what was said with what was true, in bins of equal width: (mean probability, share true, answers).

    Args:
        probabilities: 0 to 1.
        truths: What is true.
        bins: Number of bins; empty ones are left out.
    """
    grouped: dict[int, list[tuple[float, bool]]] = {}
    for p, truth in zip(probabilities, truths, strict=True):
        grouped.setdefault(min(int(p * bins), bins - 1), []).append((p, truth))
    return [
        (sum(p for p, _ in group) / len(group), sum(truth for _, truth in group) / len(group), len(group))
        for _, group in sorted(grouped.items())
    ]


def calibration_error(probabilities: Sequence[float], truths: Sequence[bool], bins: int = 10) -> float:
    """Return the mean gap between what was said and what was true, over bins (Guo et al. 2017, eq. 3); 0 is best.

    Args:
        probabilities: At least one, 0 to 1.
        truths: What is true.
        bins: Number of bins.
    """
    groups = reliability(probabilities, truths, bins)
    return sum(count * abs(said - true) for said, true, count in groups) / len(probabilities)
