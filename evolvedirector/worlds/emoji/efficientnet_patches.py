"""Patch features of EfficientNet-Lite0, from the weights of a Python package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class EfficientNetPatches:
    """Describe patches by an inner block of a classifier of photographs, which never saw drawn art."""

    def __init__(self, blocks: int = 11, pool: int = 1, side_px: int | None = None, batch_size: int = 32) -> None:
        """Choose where the features are taken; the weights are loaded at first use.

        Args:
            blocks: After how many of the 16 blocks; 11 gives 112 values for each 16 pixels, 5 gives 40 for each 8.
            pool: Patches a side whose mean is taken.
            side_px: Pictures are scaled to this side first. None: as they are, at least 32.
            batch_size: Pictures that are computed together.
        """
        self.blocks, self.pool, self.side_px, self.batch_size = blocks, pool, side_px, batch_size
        self._network: Any = None

    @property
    def fingerprint(self) -> str:
        """Name weights, block and scale."""
        from evolvedirector.worlds.emoji.efficientnet_lite import WEIGHTS_SHA256

        return f"efficientnet patches 1 {WEIGHTS_SHA256[:12]} {self.blocks} {self.pool} {self.side_px}"

    def verify(self) -> None:
        """See that the weights are installed.

        Raises:
            AssetError: They are not; the message says what to install.
        """
        from evolvedirector.worlds.emoji.efficientnet_lite import require_weights

        require_weights()

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [images, rows, columns, width]."""
        import torch
        from torch.nn import functional

        if self._network is None:
            from evolvedirector.worlds.emoji.efficientnet_lite import EfficientNetLite0

            self._network = EfficientNetLite0()
        parts = []
        for start in range(0, len(images), self.batch_size):
            stacked = np.stack(images[start : start + self.batch_size])
            pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
            if self.side_px is not None and pixels.shape[-1] != self.side_px:
                pixels = functional.interpolate(pixels, (self.side_px,) * 2, mode="bilinear", antialias=True)
            maps = self._network.maps(pixels, self.blocks)
            maps = functional.avg_pool2d(maps, self.pool) if self.pool > 1 else maps
            parts.append(maps.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(parts)

    def close(self) -> None:
        """Let go of the weights; the next call loads them again."""
        self._network = None
