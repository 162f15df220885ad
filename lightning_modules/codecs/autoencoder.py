"""Latent space: a frozen diffusers autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.lightning_modules.codecs.codec import LatentScale, Posterior
from evolvedirector.lightning_modules.codecs.frozen_autoencoder import check_latents, decoded, encoded
from evolvedirector.lightning_modules.component import Component, needs_revision
from evolvedirector.lightning_modules.frozen_model import FrozenModel, Precision, load_from_diffusers
from evolvedirector.store.paths import folder_or_hub_name


class Autoencoder:
    """Map images to latents and back with a diffusers `AutoencoderKL` (Rombach et al. 2022, arXiv:2112.10752).

    Frozen and no `nn.Module`: it never enters checkpoints, EMA or sharding. The weights load at first use. Images need
    not be square.

    Args:
        name: repository name or diffusers folder.
        revision: git revision of the repository; None only for a folder.
        latent_channels: channels of a latent, verified when the weights are loaded.
        downscaling: image pixels per latent pixel, along one side.
        scaling_factor: multiplies latents to unit variance; None takes the autoencoder's own.
        dtype: precision of its weights.
        shift_factor: subtracted before scaling; None takes the autoencoder's own, which most do not have.
        subfolder: folder of the autoencoder inside the repository, `vae` in diffusers pipelines; None for none.

    Raises:
        UserError: if a repository is named without revision.
    """

    is_random = True

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        latent_channels: int = 4,
        downscaling: int = 8,
        scaling_factor: float | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        shift_factor: float | None = None,
        subfolder: str | None = None,
    ) -> None:
        name = folder_or_hub_name(name)
        needs_revision("Autoencoder", name, revision)
        self.name, self.revision, self.dtype = name, revision, dtype
        self.latent_channels, self.downscaling = latent_channels, downscaling
        self._scaling_factor, self._shift_factor = scaling_factor, shift_factor
        component = Component("the autoencoder", name, revision, subfolder)
        self.frozen = FrozenModel("AutoencoderKL", component, dtype, self._load, self._check)

    @property
    def fingerprint(self) -> str:
        """Name repository, revision, precision, scale and, where it is set, shift; of a folder, its weights."""
        shift = "" if self._shift_factor is None else f"-{self._shift_factor}"
        content = self.frozen.component.content_digest()
        return f"autoencoder-{self.name}-{self.revision}-{self.dtype}-{self._scaling_factor}{shift}{content}"

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.latent_channels

    def encode(self, images: Tensor) -> Posterior:
        """Return mean and deviation of the raw latents of images in [-1, 1]."""
        posterior = encoded(self.model(), images).latent_dist
        return Posterior(posterior.mean.float(), posterior.std.float())

    def normalise(self, raw: Tensor) -> Tensor:
        """Return s ((raw - m) / d - h), with the autoencoder's own numbers where the config names none."""
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

    def _load(self, class_name: str, component: Component, dtype: Precision) -> tuple[Any, Mapping[str, Any]]:
        model, config = load_from_diffusers(class_name, component, dtype)
        named = {"scaling_factor": self._scaling_factor, "shift_factor": self._shift_factor}
        # a stock pipeline that is given this model reads its numbers there
        model.register_to_config(**{name: value for name, value in named.items() if value is not None})
        return model, config

    def _check(self, config: Mapping[str, Any]) -> None:
        found = (config["latent_channels"], 2 ** (len(config["block_out_channels"]) - 1))
        check_latents(self.name, found, (self.latent_channels, self.downscaling))

    def _scale(self) -> LatentScale:
        config = self.model().config
        means, deviations = config.latents_mean, config.latents_std
        return LatentScale(
            float(config.scaling_factor),
            float(config.shift_factor or 0.0),
            None if means is None else tuple(means),
            None if deviations is None else tuple(deviations),
        )
