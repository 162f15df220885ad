"""How sharp an image is, as a reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from evolvedirector.records import ImageAndPrompt, Score
from evolvedirector.rewards.grey_picture import checked_size, grey_picture
from evolvedirector.rewards.image_batches import ImageBatches

_LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]


class SharpnessScore:
    """Score an image by the variance of the Laplacian of its grey values, 0 or more.

    Pech-Pacheco et al. 2000 (ICPR, "Diatom autofocusing in brightfield microscopy"): Var(D * Y), with Y the luma of 0
    to 1 and D the Laplacian of four neighbours. It needs no model. It sees fine detail, not what the detail is: noise
    and hard texture score as sharp, a soft background as blurred. Scores of two sizes do not compare.

    Args:
        size_px: Shorter side to which images are scaled first.

    Raises:
        UserError: A size under 16 px.
    """

    def __init__(self, size_px: int = 512) -> None:
        self.size_px = checked_size(size_px)
        self._batches = ImageBatches(self._values, batch_size=32)

    @property
    def fingerprint(self) -> str:
        """Name the measure and its size."""
        return f"sharpness-1/{self.size_px}"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        """Yield one score per item; nan for what is no image.

        Args:
            items: Encoded images of any size.
        """
        return self._batches.score(items)

    def _values(self, images: list[Tensor], prompts: list[str]) -> Tensor:
        greys = (grey_picture(image, self.size_px) for image in images)
        return torch.stack([torch.nn.functional.conv2d(grey, _LAPLACIAN).var(correction=0) for grey in greys])
