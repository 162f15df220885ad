"""Which pairs are kept: a threshold for each score and kind of change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.pairs.pair_records import KINDS

Thresholds = Mapping[str, Mapping[str, float]]
"""Kind of change to score to least value."""


def check_thresholds(thresholds: Thresholds, kinds: Sequence[str]) -> None:
    """Refuse thresholds that leave a kind out or name an unknown one.

    Identity alone prefers pairs whose change is missing, and one threshold for all kinds drives out those in which a
    right pair looks least like its subject (style), so each kind says its own.

    Raises:
        UserError: With what to write.
    """
    wrong = [kind for kind in thresholds if kind not in KINDS] + [kind for kind in kinds if kind not in thresholds]
    if wrong:
        raise UserError(
            f"The thresholds {'name' if wrong[0] not in KINDS else 'lack'} the kind '{wrong[0]}'. Allowed are"
            f" {', '.join(KINDS)}, and each kind that is built needs its own. Write"
            f" `{kinds[0] if kinds else 'tint'}: {{identity: 0.6, change: 0.5}}`, say."
        )


def cause_of(scores: Mapping[str, float], least: Mapping[str, float]) -> tuple[str, str]:
    """Say which score rejects a pair, and why in words; both empty where the pair is kept.

    The score that is furthest below its threshold is the cause. A score that is missing or not a number rejects.

    Args:
        scores: By name.
        least: Thresholds of the pair's kind by name of the score.
    """
    below = []
    for name, threshold in least.items():
        value = scores.get(name, float("nan"))
        if not value >= threshold:
            distance = threshold - value
            below.append((distance if distance == distance else float("inf"), name, value, threshold))
    if not below:
        return "", ""
    _, name, value, threshold = max(below)
    return name, f"{name} {value:.3f} is below {threshold:.3f}"


def fitted_thresholds(
    scores: Sequence[Mapping[str, float]], right: Sequence[bool], precision: float, steps: int = 24
) -> dict[str, float]:
    """Choose the thresholds of one kind on pairs with known answers.

    Of all combinations of quantiles those are taken that keep the most right pairs while the share of right ones among
    the kept is at least `precision`; where none reaches it, the combination with the highest share.

    Args:
        scores: Of each pair, the same names throughout.
        right: Whether the pair is right.
        precision: Least share of right pairs among the kept.
        steps: Values tried of each score.

    Raises:
        UserError: There is nothing to fit to.
    """
    if not any(right) or not scores:
        raise UserError(
            "Thresholds cannot be fitted without a right pair. Allowed are pairs of which some are right and some are"
            " wrong. Give more of them."
        )
    names = sorted(scores[0])
    table = np.array([[s[name] for name in names] for s in scores])  # [pairs, scores]
    truth = np.asarray(right)
    levels = [
        np.concatenate([[-np.inf], np.quantile(table[truth, n], np.linspace(0, 0.6, steps))]) for n in range(len(names))
    ]
    passes = [table[:, n, None] >= levels[n][None] for n in range(len(names))]  # each [pairs, steps + 1]
    kept, good = np.ones((len(table),) + (1,) * len(names), bool), truth.reshape(-1, *(1,) * len(names))
    for n, passed in enumerate(passes):
        shape = [len(table)] + [1] * len(names)
        shape[n + 1] = passed.shape[1]
        kept = kept & passed.reshape(shape)
    number, hits = kept.sum(axis=0), (kept & good).sum(axis=0)
    share = hits / np.maximum(1, number)
    worth = np.where(share >= precision, hits.astype(float), share - 1)  # [steps + 1] x scores
    best = np.unravel_index(int(np.argmax(worth)), worth.shape)
    chosen = {name: float(levels[n][best[n]]) for n, name in enumerate(names)}
    return {name: value for name, value in chosen.items() if np.isfinite(value)}
