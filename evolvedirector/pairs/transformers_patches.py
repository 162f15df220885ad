"""Patch features of any vision transformer of the transformers library, by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import Dtype, ModelSettings, ModelSource, digest_of_model
from evolvedirector.models.model_loading import load_config, load_model, place_of, readable_errors
from evolvedirector.models.on_demand import ModelOnDemand


class TransformersPatches:
    """Describe patches by the last hidden states of a DINOv2, DINOv3, DINO (ViT) or CLIP vision model."""

    def __init__(
        self,
        model: str = "facebook/dinov2-base",
        revision: str | None = None,
        dtype: Dtype = "auto",
        device: str | None = None,
        side_px: int | None = None,
        batch_size: int = 16,
    ) -> None:
        """Choose a model; its weights are loaded at the first call.

        Args:
            model: Folder, or name on the model hub.
            revision: Branch, tag or commit on the hub. None: its main branch.
            dtype: Of weights and computation. auto: as saved.
            device: As PyTorch names it. None: the GPU of the rank, or the CPU.
            side_px: Pictures are scaled to this side first. None: what the model was trained with.
            batch_size: Pictures that are computed together.
        """
        self.side_px, self.batch_size = side_px, batch_size
        self._settings = ModelSettings(model, revision, dtype, None, device)
        self._model: ModelOnDemand[Any] = ModelOnDemand(self._settings, _load)

    @property
    def fingerprint(self) -> str:
        """Name the weights and the size."""
        source = self._model.source()
        return f"patches {source.short_name} {digest_of_model(source)} {self._settings.dtype} {self.side_px}"

    def models(self) -> frozenset[str]:
        """Name the model, so that it is known again under other settings."""
        return frozenset({self.fingerprint, f"model {self._settings.model}"})

    def verify(self) -> None:
        """See that the model is there and has patches; loads no weights.

        Raises:
            UserError: It is no vision transformer.
        """
        _vision_config(self._model.checked_source(), self._settings.revision)

    def estimated_bytes(self) -> int | None:
        """Return what the weights take, in bytes; None where they are not here yet."""
        return self._model.estimated_bytes()

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [images, rows, columns, width]."""
        import torch
        from torch.nn import functional

        network = self._model.get()
        mean, deviation = self._levels
        config = _vision_config(self._model.source(), self._settings.revision)
        side = self.side_px or int(config.image_size)
        side -= side % int(config.patch_size)
        grid = side // int(config.patch_size)
        parts = []
        for start in range(0, len(images), self.batch_size):
            stacked = np.stack(images[start : start + self.batch_size])
            pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
            pixels = functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)
            values = ((pixels - mean) / deviation).to(network.device, network.dtype)
            settings = {"interpolate_pos_encoding": True} if side != int(config.image_size) else {}
            with torch.no_grad():
                hidden = network(pixel_values=values, **settings).last_hidden_state
            patches = hidden[:, hidden.shape[1] - grid * grid :]  # class and register tokens stand before them
            parts.append(patches.reshape(len(stacked), grid, grid, -1).float().cpu().numpy())
        return np.concatenate(parts)

    def close(self) -> None:
        """Free the model's memory."""
        self._model.close()

    @cached_property
    def _levels(self) -> tuple[Any, Any]:
        """Return mean and deviation of the channels, as the model's own processor has them."""
        import torch
        from transformers import AutoImageProcessor

        source = self._model.source()
        with readable_errors(source.model):
            load: Any = AutoImageProcessor.from_pretrained
            processor = load(place_of(source), revision=self._settings.revision, trust_remote_code=False)
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (processor.image_mean, processor.image_std))
        return mean, deviation


def _vision_config(source: ModelSource, revision: str | None) -> Any:
    config: Any = load_config(source, revision)
    config = getattr(config, "vision_config", config)  # of a CLIP, the half that sees
    if not isinstance(getattr(config, "patch_size", None), int) or not isinstance(config.image_size, int):
        raise UserError(
            f"The model {source.model!r} (type {config.model_type!r}) has no square patches. Allowed are vision"
            " transformers such as DINOv2, DINO or CLIP. Write `model: facebook/dinov2-base`, say."
        )
    return config


def _load(source: ModelSource, settings: ModelSettings) -> Any:
    from transformers import AutoModel, CLIPVisionModel

    is_clip = getattr(load_config(source, settings.revision), "model_type", "") == "clip"
    loader: Any = CLIPVisionModel if is_clip else AutoModel
    return load_model(loader.from_pretrained, source, settings)
