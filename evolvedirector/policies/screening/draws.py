"""How often single samples are drawn in training, by the student's losses on them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST_TIMES = 8.0
"""How many times as often as the mean a sample is drawn at most, and as seldom at least. An image that cannot be
learned (a wrong one, noise) has the highest loss for ever and must not take over; what is known is not forgotten."""
_DIGITS = 4


def running_loss(losses: Sequence[float], smoothing: float) -> float:
    """Return l <- (1 - a) l + a l_k over the losses of a sample, the first one as it is.

    Args:
        losses: l_k, oldest first; at least one.
        smoothing: a, over 0 to 1: weight of the newest one.
    """
    running = losses[0]
    for loss in losses[1:]:
        running = (1.0 - smoothing) * running + smoothing * loss
    return running


def weights_by_loss(losses: Mapping[str, Sequence[float]], power: float, smoothing: float) -> dict[str, float]:
    """Return the draw weight of each sample, w = l^g / mean(l^g), from 1/8 to 8; the mean sample has 1.

    g = 1 is sampling by loss, a cheap stand-in for sampling by the norm of the gradient (Katharopoulos and Fleuret
    2018, arXiv 1803.00942, compare both); g under 1 grows gently. The gradient is not reweighted: what is not learned
    yet is meant to count more. A sample without a loss has
    weight 1. Four digits are kept: more of them only name the machine that measured.

    Args:
        losses: By sample key, oldest first; of the squared kind, 0 or more.
        power: g, over 0.
        smoothing: Of the running loss.
    """
    grown = {key: max(running_loss(of, smoothing), 0.0) ** power for key, of in losses.items()}
    mean = sum(grown.values()) / len(grown) if grown else 0.0
    if mean <= 0:
        return {}
    bounded = {key: min(MOST_TIMES, max(1.0 / MOST_TIMES, value / mean)) for key, value in grown.items()}
    return {key: float(f"{weight:.{_DIGITS}g}") for key, weight in sorted(bounded.items())}
