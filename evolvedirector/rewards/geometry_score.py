"""How straight the edges of an image run, as a reward for its geometry."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.rewards.grey_picture import checked_size, grey_picture
from evolvedirector.rewards.image_batches import ImageBatches

if TYPE_CHECKING:
    from jaxtyping import Float

_SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0
_GRADIENTS = torch.stack([_SOBEL, _SOBEL.T])[:, None]
_WINDOWS_PER_SIDE = 16
_LEAST_ENERGY = 1e-6
"""Mean squared gradient of grey values of 0 to 1 under which there is no edge to look at."""


def edge_straightness(grey: Float[Tensor, "1 1 height width"], window_px: int) -> float:
    """Return how far gradients agree in direction inside of windows, weighted by their energy, 0 to 1.

    With J the structure tensor (the mean of g g^T over a window, g the gradient) and its eigenvalues a >= b: the
    coherence (a - b) / (a + b) = sqrt((J_xx - J_yy)^2 + 4 J_xy^2) / (J_xx + J_yy) (Bigun and Granlund 1987), 1 where
    all edges of a window are parallel, 0 where they run everywhere; its mean over windows, weighted by a + b.

    Args:
        grey: Grey values, 0 to 1.
        window_px: Side of a window.

    Returns:
        nan where the picture has no edges.
    """
    g = torch.nn.functional.conv2d(grey, _GRADIENTS)
    products = torch.cat([g[:, :1] ** 2, g[:, 1:] ** 2, g[:, :1] * g[:, 1:]], dim=1)
    j_xx, j_yy, j_xy = torch.nn.functional.avg_pool2d(products, window_px, stride=max(1, window_px // 2))[0]
    energy = j_xx + j_yy
    if float(energy.mean()) < _LEAST_ENERGY:
        return math.nan
    return float(((j_xx - j_yy) ** 2 + 4 * j_xy**2).sqrt().sum() / energy.sum())


class GeometryScore:
    """Score an image by how straight its edges run: the energy-weighted coherence of its structure tensor, 0 to 1.

    The cue is that lines of built things do not bend: a wall, a horizon, a table's edge keeps its direction, and where
    a model lets it wobble or break the score falls. See `edge_straightness` for the equation. It needs no model. It
    sees neither perspective (whether lines meet in one vanishing point), nor shadows, nor proportions, nor a bend that
    is wider than a window, and finds what is round, textured or noisy worse than what is straight: it compares images
    of one prompt, as `BestOfN` does, not images of different ones.

    Args:
        size_px: Shorter side to which images are scaled first; a window is a sixteenth of it.

    Raises:
        UserError: A size under 16 px.
    """

    def __init__(self, size_px: int = 256) -> None:
        self.size_px = checked_size(size_px)
        self._batches = ImageBatches(self._values, batch_size=32)

    @property
    def fingerprint(self) -> str:
        """Name the measure and its size."""
        return f"geometry-1/{self.size_px}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item; nan for what is no image and for one without edges.

        Args:
            items: Encoded images of any size.
        """
        for score in self._batches.score(items):
            edgeless = math.isnan(score.value) and not score.reason
            yield Score(score.item_id, score.value, "it has no edges") if edgeless else score

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        window_px = max(3, self.size_px // _WINDOWS_PER_SIDE)
        return torch.tensor([edge_straightness(grey_picture(image, self.size_px), window_px) for image in images])
