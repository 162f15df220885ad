"""Latent space: a frozen diffusers autoencoder."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.codecs.codec import LatentScale, Posterior
from evolvedirector.lightning_modules.component import Component, needs_revision


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
        needs_revision("Autoencoder", name, revision)
        self.component = Component("the autoencoder", name, revision, subfolder)
        self.name, self.revision, self.dtype = name, revision, dtype
        self.latent_channels, self.downscaling = latent_channels, downscaling
        self._scaling_factor, self._shift_factor = scaling_factor, shift_factor
        self._device = torch.device("cpu")
        self._model: Any = None

    @property
    def fingerprint(self) -> str:
        """Name repository, revision, precision, scale and, where it is set, shift; of a folder, its weights."""
        shift = "" if self._shift_factor is None else f"-{self._shift_factor}"
        content = self.component.content_digest()
        return f"autoencoder-{self.name}-{self.revision}-{self.dtype}-{self._scaling_factor}{shift}{content}"

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self.latent_channels

    def encode(self, images: Tensor) -> Posterior:
        """Return mean and deviation of the raw latents of images in [-1, 1]."""
        model = self.model()
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            posterior = model.encode(images.to(model.dtype)).latent_dist
        return Posterior(posterior.mean.float(), posterior.std.float())

    def normalise(self, raw: Tensor) -> Tensor:
        """Return s ((raw - m) / d - h), with the autoencoder's own numbers where the config names none."""
        return self._scale().normalise(raw)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [-1, 1] from scaled latents."""
        model = self.model()
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            raw = self._scale().restore(latents).to(model.dtype)
            images: Tensor = model.decode(raw, return_dict=False)[0]
        return images.float()

    def to(self, device: torch.device) -> None:
        """Move the weights; the next call runs there."""
        self._device = device
        if self._model is not None:
            self._model.to(device)

    def verify(self) -> None:
        """Check that the weights are where the config says, as safetensors, and what their config promises.

        Raises:
            ValueError: They are not, or they have other channels or another downscaling.
        """
        self.component.verify_weights()
        if (config := self.component.config()) is not None:
            self._check(config["latent_channels"], len(config["block_out_channels"]))

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return self.component.weight_bytes(self.dtype)

    def model(self) -> Any:
        """Return the diffusers model, loaded at the first call."""
        if self._model is None:
            from diffusers import AutoencoderKL

            with torch.random.fork_rng(devices=[]):
                model = AutoencoderKL.from_pretrained(
                    self.name,
                    revision=self.revision,
                    subfolder=self.component.subfolder,
                    torch_dtype=getattr(torch, self.dtype),
                    use_safetensors=True,
                )
            self._check(model.config.latent_channels, len(model.config.block_out_channels))
            self._model = model.eval().requires_grad_(False).to(self._device)
        return self._model

    def _check(self, channels: int, levels: int) -> None:
        found = (channels, 2 ** (levels - 1))
        if found != (self.latent_channels, self.downscaling):
            raise UserError(
                f"Autoencoder {self.name!r} has {found[0]} latent channels and downscaling {found[1]}, but "
                f"latent_channels is {self.latent_channels} and downscaling {self.downscaling}. Allowed are its "
                f"own. Write latent_channels: {found[0]}, downscaling: {found[1]}."
            )

    def _scale(self) -> LatentScale:
        config = self.model().config
        scale = config.scaling_factor if self._scaling_factor is None else self._scaling_factor
        shift = config.shift_factor if self._shift_factor is None else self._shift_factor
        means, deviations = config.latents_mean, config.latents_std
        return LatentScale(
            float(scale),
            float(shift or 0.0),
            None if means is None else tuple(means),
            None if deviations is None else tuple(deviations),
        )
