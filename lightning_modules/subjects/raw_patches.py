"""The pixels of a reference's patches: features that need no model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.subjects.feature_encoder import PatchFeatures, scaled


class RawPatches:
    """Give each patch of a reference its own pixels, from -1 to 1: nothing is downloaded, nothing is lost.

    What a patch means is left to the resampler. For small pictures this is as good as a network's features.

    Args:
        image_size_px: Side of the squares that references are scaled to.
        patch_px: Side of a patch.

    Raises:
        UserError: Patches do not fill the square.
    """

    def __init__(self, image_size_px: int = 48, patch_px: int = 6) -> None:
        if patch_px < 1 or image_size_px < 1 or image_size_px % patch_px:
            raise UserError(
                f"References of {image_size_px} px cannot be cut into patches of {patch_px} px. The side must be a "
                f"multiple of the patch. Write image_size_px: {max(1, image_size_px // max(1, patch_px)) * patch_px}."
            )
        self.image_size_px, self.patch_px = image_size_px, patch_px

    @property
    def fingerprint(self) -> str:
        """Name side and patch."""
        return f"raw-patches-{self.image_size_px}-{self.patch_px}"

    @property
    def dimension(self) -> int:
        """Values of a patch."""
        return 3 * self.patch_px**2

    def to(self, device: torch.device) -> None:
        """Do nothing: there are no weights, and patches stay where their picture is."""

    def features(self, images: Tensor) -> PatchFeatures:
        """Cut pictures into patches."""
        side = self.image_size_px // self.patch_px
        values = functional.unfold(scaled(images, self.image_size_px) * 2 - 1, self.patch_px, stride=self.patch_px)
        return PatchFeatures(values.transpose(1, 2), side, side)
