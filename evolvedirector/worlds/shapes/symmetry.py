"""How symmetric a picture is: in all its pixels, to select by, and in where its shapes lie, to evaluate with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.worlds.shapes.paint import Paint
from evolvedirector.worlds.shapes.paint_reward import PaintReward
from evolvedirector.worlds.shapes.picture_scores import scores_of


def mirror_correlation(pixels: NDArray[np.floating]) -> float:
    """Return the correlation of a picture with its mirror image, over all pixels and channels, -1 to 1.

    r = sum((p - m) (p' - m)) / sum((p - m)^2), with p' the pixels mirrored left to right and m each channel's mean; 1
    for an even picture.

    Args:
        pixels: height x width x 3, 0 to 255.
    """
    centred = np.asarray(pixels, dtype=np.float64) - pixels.mean(axis=(0, 1))
    energy = float((centred**2).sum())
    return 1.0 if energy == 0 else float((centred * centred[:, ::-1]).sum()) / energy


def mirror_overlap(paint: Paint) -> float:
    """Return |M and M'| / |M or M'|, with M the pixels of the shapes and M' their mirror image, 0 to 1.

    It sees where the shapes lie and how they are cut, neither their colours nor the ground.

    Args:
        paint: The picture taken apart; without a shape the value is 0.
    """
    shapes = np.zeros(paint.coverage.shape, dtype=np.bool_)
    for patch in paint.patches:
        shapes |= patch.inside
    either = shapes | shapes[:, ::-1]
    return float((shapes & shapes[:, ::-1]).sum() / either.sum()) if either.any() else 0.0


class MirrorSymmetry:
    """Select by how far a picture is its own mirror image, left to right (`mirror_correlation`).

    Its evaluator is `MirrorOverlap`, which sees shapes in place of pixels.
    """

    @property
    def fingerprint(self) -> str:
        """Name the measure."""
        return "miniature-mirror-symmetry-1"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item; nan for what is no image.

        Args:
            items: encoded images.
        """
        return scores_of(items, lambda image: mirror_correlation(np.asarray(image)))


class MirrorOverlap(PaintReward):
    """Evaluate how far the shapes of a picture lie on their own mirror image (`mirror_overlap`); not to select by.

    Args:
        world: whose colours count as paint.
    """

    name = "miniature-mirror-overlap-1"

    @staticmethod
    def measure(paint: Paint) -> float:
        """Return `mirror_overlap`.

        Args:
            paint: the picture taken apart.
        """
        return mirror_overlap(paint)
