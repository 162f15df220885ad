"""Qwen-Image's latent space: an autoencoder of videos, used on single images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.lightning_modules.codecs.codec import LatentScale, Posterior
from evolvedirector.lightning_modules.codecs.frozen_autoencoder import check_latents, decoded, encoded
from evolvedirector.lightning_modules.component import Component, needs_revision
from evolvedirector.lightning_modules.frozen_model import FrozenModel, load_from_diffusers
from evolvedirector.store.paths import folder_or_hub_name


class QwenAutoencoder:
    """Map images to latents and back with a diffusers `AutoencoderKLQwenImage` (Wu et al. 2025, arXiv:2508.02324).

    An image is a video of one frame, so the frame axis is added and taken away here. Latents are brought to zero mean
    and unit variance with a mean and a deviation per channel, which the weights' config holds. Frozen and no
    `nn.Module`: it never enters checkpoints, EMA or sharding. The weights load at first use.

    Args:
        name: repository name or diffusers folder.
        revision: git revision of the repository; None only for a folder.
        latent_channels: channels of a latent, verified when the weights are loaded.
        downscaling: image pixels per latent pixel, along one side; verified likewise.
        dtype: precision of its weights.
        subfolder: folder of the autoencoder inside the repository, `vae` in diffusers pipelines; None for none.

    Raises:
        UserError: if a repository is named without revision.
    """

    is_random = True

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        latent_channels: int = 16,
        downscaling: int = 8,
        dtype: Literal["float32", "bfloat16"] = "float32",
        subfolder: str | None = None,
    ) -> None:
        name = folder_or_hub_name(name)
        needs_revision("QwenAutoencoder", name, revision)
        self.name, self.revision, self.dtype = name, revision, dtype
        self.latent_channels, self.downscaling = latent_channels, downscaling
        component = Component("the autoencoder", name, revision, subfolder)
        self.frozen = FrozenModel("AutoencoderKLQwenImage", component, dtype, load_from_diffusers, self._check)

    @property
    def fingerprint(self) -> str:
        """Name repository, revision and precision; of a folder, its weights."""
        return f"qwen-autoencoder-{self.name}-{self.revision}-{self.dtype}{self.frozen.component.content_digest()}"

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.latent_channels

    def encode(self, images: Tensor) -> Posterior:
        """Return mean and deviation of the raw latents of images in [-1, 1]."""
        posterior = encoded(self.model(), images.unsqueeze(2)).latent_dist
        return Posterior(posterior.mean.squeeze(2).float(), posterior.std.squeeze(2).float())

    def normalise(self, raw: Tensor) -> Tensor:
        """Return (raw - m) / d, per channel."""
        return self._scale().normalise(raw)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [-1, 1] from scaled latents."""
        return decoded(self.model(), self._scale().restore(latents).unsqueeze(2)).squeeze(2)

    def to(self, device: torch.device) -> None:
        """Move the weights; the next call runs there."""
        self.frozen.to(device)

    def verify(self) -> None:
        """Check that the weights are where the config says, as safetensors, and what their config promises.

        Raises:
            ValueError: They are not, or they have other channels or another downscaling.
        """
        self.frozen.verify()

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return self.frozen.estimated_bytes()

    def model(self) -> Any:
        """Return the diffusers model, loaded at the first call."""
        return self.frozen.model()

    def _check(self, config: Mapping[str, Any]) -> None:
        found = (config["z_dim"], 2 ** len(config["temperal_downsample"]))
        check_latents(self.name, found, (self.latent_channels, self.downscaling))

    def _scale(self) -> LatentScale:
        config = self.model().config
        return LatentScale(means=tuple(config.latents_mean), deviations=tuple(config.latents_std))
