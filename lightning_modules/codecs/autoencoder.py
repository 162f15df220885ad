"""Latent space: a frozen diffusers autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor


class Autoencoder:
    """Map images to latents and back with a diffusers `AutoencoderKL` (Rombach et al. 2022, arXiv:2112.10752).

    Frozen and no `nn.Module`: it never enters checkpoints, EMA or sharding. The weights load at first use.

    Args:
        name: repository name or diffusers folder.
        revision: git revision of the repository; None only for a folder.
        latent_channels: channels of a latent, verified when the weights are loaded.
        downscaling: image pixels per latent pixel, along one side.
        scaling_factor: multiplies latents to unit variance; None takes the autoencoder's own.
        dtype: precision of its weights.

    Raises:
        ValueError: if a repository is named without revision.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        latent_channels: int = 4,
        downscaling: int = 8,
        scaling_factor: float | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        if revision is None and not Path(name).is_dir():
            raise ValueError(
                f"Autoencoder {name!r} is no folder here and has no revision. A repository needs one, so that a run "
                f"can be repeated. Write revision: <git hash>, or the path of a diffusers folder."
            )
        self.name, self.revision, self.dtype = name, revision, dtype
        self.latent_channels, self.downscaling = latent_channels, downscaling
        self._scaling_factor = scaling_factor
        self._device = torch.device("cpu")
        self._model: Any = None

    @property
    def fingerprint(self) -> str:
        """Name repository, revision, precision and scale."""
        return f"autoencoder-{self.name}-{self.revision}-{self.dtype}-{self._scaling_factor}"

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return scaled latents z = s (mean + deviation e) of images in [-1, 1], with the given noise e."""
        model = self._loaded()
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            posterior = model.encode(images.to(model.dtype)).latent_dist
        return (posterior.mean.float() + posterior.std.float() * noise) * self._scale(model)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images in [-1, 1] from scaled latents."""
        model = self._loaded()
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            images: Tensor = model.decode((latents / self._scale(model)).to(model.dtype), return_dict=False)[0]
        return images.float()

    def to(self, device: torch.device) -> None:
        """Move the weights; the next call runs there."""
        self._device = device
        if self._model is not None:
            self._model.to(device)

    def _scale(self, model: Any) -> float:
        return self._scaling_factor if self._scaling_factor is not None else float(model.config.scaling_factor)

    def _loaded(self) -> Any:
        if self._model is None:
            from diffusers import AutoencoderKL

            with torch.random.fork_rng(devices=[]):
                model = AutoencoderKL.from_pretrained(
                    self.name, revision=self.revision, torch_dtype=getattr(torch, self.dtype), use_safetensors=True
                )
            found = (model.config.latent_channels, 2 ** (len(model.config.block_out_channels) - 1))
            if found != (self.latent_channels, self.downscaling):
                raise ValueError(
                    f"Autoencoder {self.name!r} has {found[0]} latent channels and downscaling {found[1]}, but "
                    f"latent_channels is {self.latent_channels} and downscaling {self.downscaling}. Allowed are its "
                    f"own. Write latent_channels: {found[0]}, downscaling: {found[1]}."
                )
            self._model = model.eval().requires_grad_(False).to(self._device)
        return self._model
