"""How colourful a picture is, in two measures that share no step: one to select by, one to evaluate with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.worlds.shapes.picture_scores import scores_of


def opponent_spread(pixels: NDArray[np.floating]) -> float:
    """Return M = sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2), with means m and deviations s of opponent colours.

    Hasler and Suesstrunk 2003 ("Measuring colourfulness in natural images", eq. 6), with rg = R - G and
    yb = (R + G) / 2 - B.

    Args:
        pixels: height x width x 3, 0 to 255.
    """
    red, green, blue = np.moveaxis(np.asarray(pixels, dtype=np.float64), -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread, mean = opponents.std(axis=(1, 2)), opponents.mean(axis=(1, 2))
    return float(np.hypot(*spread) + 0.3 * np.hypot(*mean))


def mean_saturation(pixels: NDArray[np.floating]) -> float:
    """Return the mean over all pixels of (max - min) / max of red, green and blue, 0 to 1: saturation times coverage.

    Args:
        pixels: height x width x 3, 0 to 255.
    """
    high, low = pixels.max(axis=-1).astype(np.float64), pixels.min(axis=-1).astype(np.float64)
    return float(np.where(high > 0, (high - low) / np.maximum(high, 1.0), 0.0).mean())


class Colourfulness:
    """Select by how far the opponent colours of a picture spread (`opponent_spread`).

    Its independent evaluator is `MeanSaturation`.
    """

    @property
    def fingerprint(self) -> str:
        """Name the measure."""
        return "miniature-colourfulness-1"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item; nan for what is no image.

        Args:
            items: encoded images.
        """
        return scores_of(items, lambda image: opponent_spread(np.asarray(image)))


class MeanSaturation:
    """Evaluate how saturated a picture is on the whole (`mean_saturation`); not to select by."""

    @property
    def fingerprint(self) -> str:
        """Name the measure."""
        return "miniature-mean-saturation-1"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item; nan for what is no image.

        Args:
            items: encoded images.
        """
        return scores_of(items, lambda image: mean_saturation(np.asarray(image)))
