"""Pixels as patch features: nothing to download."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError


class RawPatches:
    """Describe each patch by its own pixels, scaled down, and by the colours around it."""

    def __init__(self, patch_px: int = 8, samples: int = 3) -> None:
        """Choose how fine the grid is.

        Args:
            patch_px: Side of a patch.
            samples: Values a side that are kept of each patch and of its surroundings, 1 to 16.

        Raises:
            UserError: A number is out of range.
        """
        if not (patch_px >= 2 and 1 <= samples <= 16):
            raise UserError(
                f"patch_px is {patch_px} and samples is {samples}. Allowed are 2 or more and 1 to 16. Write"
                " `patch_px: 8, samples: 3`."
            )
        self.patch_px, self.samples = patch_px, samples

    @property
    def fingerprint(self) -> str:
        """Name the grid."""
        return f"raw patches 1 {self.patch_px} {self.samples}"

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [images, rows, columns, 6 samples^2], -1 to 1."""
        return np.stack([self._encode(image) for image in images])

    def _encode(self, image: np.ndarray) -> np.ndarray:
        rows, columns = (max(1, side // self.patch_px) for side in image.shape[:2])
        n = self.samples
        fine = np.asarray(Image.fromarray(image).resize((columns * n, rows * n), Image.Resampling.BOX), np.float32)
        fine = fine / 127.5 - 1
        own = fine.reshape(rows, n, columns, n, 3).transpose(0, 2, 1, 3, 4).reshape(rows, columns, -1)
        means = own.reshape(rows, columns, -1, 3).mean(axis=2)
        wide = np.pad(means, ((1, 1), (1, 1), (0, 0)), mode="edge")
        side = np.linspace(0, 2, n).round().astype(int)
        around = np.concatenate(
            [wide[dy : dy + rows, dx : dx + columns] for dy in side for dx in side], axis=-1
        )  # [rows, columns, 3 samples^2]
        return np.concatenate([own, 0.5 * around], axis=-1).astype(np.float32)
