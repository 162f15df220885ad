"""Patch features of DINO, a vision transformer that was trained without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.component import Component, needs_revision
from evolvedirector.lightning_modules.frozen_model import FrozenModel, load_from_transformers
from evolvedirector.lightning_modules.subjects.feature_encoder import PatchFeatures, scaled
from evolvedirector.store.paths import folder_or_hub_name

_CLASSES = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel", "dinov3": "DINOv3ViTModel"}
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: what all of them were trained on


class DinoFeatures:
    """Encode references with DINOv2 (arXiv:2304.07193) or DINOv3 (arXiv:2508.10104): the last states of its patches.

    The tokens of the whole picture and the registers are left out. Weights load at the first reference.

    Args:
        name: Repository or folder, say `facebook/dinov2-large`.
        revision: Git revision of the repository; None only for a folder.
        kind: Which DINO: `dinov2`, `dinov2_with_registers` or `dinov3` (its vision transformers).
        dimension: Of its states: 384 (small), 768 (base), 1024 (large), 1536 (giant of DINOv2).
        image_size_px: Side of the squares that references are scaled to, a multiple of the patch (14, DINOv3: 16).
        dtype: Precision of its weights.

    Raises:
        UserError: A repository is named without revision.
    """

    def __init__(
        self,
        name: str,
        revision: str | None = None,
        kind: Literal["dinov2", "dinov2_with_registers", "dinov3"] = "dinov2",
        dimension: int = 1024,
        image_size_px: int = 224,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
    ) -> None:
        self.name, self.revision, self.kind, self.dtype = folder_or_hub_name(name), revision, kind, dtype
        self.dimension, self.image_size_px = dimension, image_size_px
        needs_revision("DINO", self.name, revision)
        component = Component("DINO", self.name, revision)
        self.frozen = FrozenModel(_CLASSES[kind], component, dtype, load_from_transformers, self._check)

    @property
    def fingerprint(self) -> str:
        """Name repository, revision, precision and size; of a folder, its weights."""
        content = self.frozen.component.content_digest()
        return f"{self.kind}-{self.name}-{self.revision}-{self.dtype}-{self.image_size_px}{content}"

    def to(self, device: torch.device) -> None:
        """Move the weights."""
        self.frozen.to(device)

    def verify(self) -> None:
        """Check that the weights are there, and, where their config is here, dimension and patch.

        Raises:
            ValueError: One of them would not work.
        """
        self.frozen.verify()

    def estimated_bytes(self) -> int:
        """Return the size of the weights; 0 before they are downloaded."""
        return self.frozen.estimated_bytes()

    def features(self, images: Tensor) -> PatchFeatures:
        """Return the last states of the patches."""
        model = self.frozen.model()
        pixels = scaled(images.to(self.frozen.device), self.image_size_px)
        mean, deviation = (pixels.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        with torch.no_grad(), torch.autocast(self.frozen.device.type, enabled=False):
            pixels = ((pixels - mean) / deviation).to(model.dtype)
            states = model(pixel_values=pixels).last_hidden_state
        side = self.image_size_px // model.config.patch_size
        return PatchFeatures(states[:, -side * side :].float(), side, side)  # patches come last

    def _check(self, config: Mapping[str, Any]) -> None:
        dimension, patch_px = config["hidden_size"], config["patch_size"]
        if dimension != self.dimension or self.image_size_px % patch_px:
            raise UserError(
                f"DINO {self.name!r} gives features of dimension {dimension} for patches of {patch_px} px, but the "
                f"config says {self.dimension} and pictures of {self.image_size_px} px. The dimension must be its own, "
                f"the side a multiple of the patch. Write dimension: {dimension}, image_size_px: "
                f"{max(1, self.image_size_px // patch_px) * patch_px}."
            )
