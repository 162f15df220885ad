"""The latent space of FLUX.2: squares of four latent pixels, normalised by the statistics of a batch norm."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.lightning_modules.codecs.codec import LatentScale, Posterior
from evolvedirector.lightning_modules.codecs.frozen_autoencoder import check_latents, decoded, encoded
from evolvedirector.lightning_modules.component import Component, needs_revision
from evolvedirector.lightning_modules.frozen_model import FrozenModel, load_from_diffusers
from evolvedirector.store.paths import folder_or_hub_name


class Flux2Autoencoder:
    """Map images to latents and back with a diffusers `AutoencoderKLFlux2` (Black Forest Labs, FLUX.2).

    An image becomes the mean of its posterior, as in the training script of diffusers. Squares of 2 x 2 latent pixels
    become channels, and running mean and variance of the autoencoder's batch norm bring those to zero and one. Frozen
    and no `nn.Module`: it never enters checkpoints, EMA or sharding. The weights load at first use. Images need not be
    square.

    Args:
        name: repository name or diffusers folder.
        revision: git revision of the repository; None only for a folder.
        latent_channels: channels before squares are packed, verified when the weights are loaded.
        downscaling: image pixels per packed latent pixel, along one side.
        dtype: precision of its weights.
        subfolder: folder of the autoencoder inside the repository, `vae` in diffusers pipelines; None for none.

    Raises:
        UserError: if a repository is named without revision.
    """

    is_random = False
    packing = 2

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        latent_channels: int = 32,
        downscaling: int = 16,
        dtype: Literal["float32", "bfloat16"] = "float32",
        subfolder: str | None = None,
    ) -> None:
        name = folder_or_hub_name(name)
        needs_revision("Autoencoder", name, revision)
        self.name, self.revision, self.dtype = name, revision, dtype
        self.latent_channels, self.downscaling = latent_channels, downscaling
        component = Component("the autoencoder", name, revision, subfolder)
        self.frozen = FrozenModel("AutoencoderKLFlux2", component, dtype, load_from_diffusers, self._check)

    @property
    def fingerprint(self) -> str:
        """Name repository, revision and precision; of a folder, its weights."""
        return f"flux2-autoencoder-{self.name}-{self.revision}-{self.dtype}{self.frozen.component.content_digest()}"

    @property
    def channels(self) -> int:
        """Channels of a packed latent."""
        return self.latent_channels * self.packing**2

    def encode(self, images: Tensor) -> Posterior:
        """Return the mean of the raw, unpacked latents of images in [-1, 1]."""
        return Posterior(encoded(self.model(), images).latent_dist.mode().float())

    def normalise(self, raw: Tensor) -> Tensor:
        """Return (pack(raw) - m) / d, with running mean m and deviation d of the batch norm."""
        return self._scale.normalise(raw)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [-1, 1] from packed, normalised latents."""
        return decoded(self.model(), self._scale.restore(latents))

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

    @cached_property
    def _scale(self) -> LatentScale:
        norm = self.model().bn
        deviations = torch.sqrt(norm.running_var.float() + self.model().config.batch_norm_eps)
        return LatentScale(means=norm.running_mean.float(), deviations=deviations, packing=self.packing)

    def _check(self, config: Mapping[str, Any]) -> None:
        found = (config["latent_channels"], self.packing * 2 ** (len(config["block_out_channels"]) - 1))
        check_latents(self.name, found, (self.latent_channels, self.downscaling), ", packing included")
