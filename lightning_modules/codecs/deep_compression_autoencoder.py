"""Sana's latent space: 32 pixels a side in one latent pixel."""

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


class DeepCompressionAutoencoder:
    """Map images to latents and back with a diffusers `AutoencoderDC` (Chen et al. 2024, arXiv:2410.10733).

    Its latents are certain, so training draws none, and they have a scale but no shift. Frozen and no `nn.Module`: it
    never enters checkpoints, EMA or sharding. The weights load at first use.

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

    is_random = False

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        latent_channels: int = 32,
        downscaling: int = 32,
        dtype: Literal["float32", "bfloat16"] = "float32",
        subfolder: str | None = None,
    ) -> None:
        name = folder_or_hub_name(name)
        needs_revision("DeepCompressionAutoencoder", name, revision)
        self.name, self.revision, self.dtype = name, revision, dtype
        self.latent_channels, self.downscaling = latent_channels, downscaling
        component = Component("the autoencoder", name, revision, subfolder)
        self.frozen = FrozenModel("AutoencoderDC", component, dtype, load_from_diffusers, self._check)

    @property
    def fingerprint(self) -> str:
        """Name repository, revision and precision; of a folder, its weights."""
        return f"deep-compression-{self.name}-{self.revision}-{self.dtype}{self.frozen.component.content_digest()}"

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.latent_channels

    def encode(self, images: Tensor) -> Posterior:
        """Return the raw latents of images in [-1, 1]."""
        return Posterior(encoded(self.model(), images).latent.float())

    def normalise(self, raw: Tensor) -> Tensor:
        """Return s raw."""
        return self._scale().normalise(raw)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [-1, 1] from scaled latents."""
        return decoded(self.model(), self._scale().restore(latents))

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
        found = (config["latent_channels"], 2 ** (len(config["encoder_block_out_channels"]) - 1))
        check_latents(self.name, found, (self.latent_channels, self.downscaling))

    def _scale(self) -> LatentScale:
        return LatentScale(float(self.model().config.scaling_factor))
