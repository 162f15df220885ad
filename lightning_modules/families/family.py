"""The seam behind which every family of transformers stands."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class TransformerFamily(Protocol):
    """Describe a text-to-image transformer by its dimensions; the weights live in the module that `build` returns."""

    @property
    def in_channels(self) -> int:
        """Number of image or latent channels."""
        ...

    @property
    def sample_size(self) -> int:
        """Side of the image (in pixels) or latent that it draws."""
        ...

    @property
    def text_dimension(self) -> int:
        """Dimension of the text states it reads."""
        ...

    def build(self) -> nn.Module:
        """Make the transformer; initial weights come from the global generator, which the caller seeds."""
        ...

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """List the repeated blocks: the units of sharding and compilation."""
        ...

    def predict(self, transformer: nn.Module, noisy: Tensor, time: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Run the transformer; `time` is on the scale 0...1000, the prediction has the shape of `noisy`."""
        ...
