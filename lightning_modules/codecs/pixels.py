"""No latent space: the images themselves are trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from evolvedirector.lightning_modules.codecs.codec import Posterior


class Pixels:
    """Leave images in [-1, 1] as they are."""

    fingerprint = "pixels"
    channels = 3
    downscaling = 1
    is_random = False

    def encode(self, images: Tensor) -> Posterior:
        """Return the images."""
        return Posterior(images)

    def normalise(self, raw: Tensor) -> Tensor:
        """Return the images."""
        return raw

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images."""
        return latents

    def to(self, device: torch.device) -> None:
        """Do nothing: there are no weights."""
