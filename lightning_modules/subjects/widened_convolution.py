"""Further channels of a network's first convolution: spatial conditions that begin without effect."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from evolvedirector.errors import UserError


class WidenedConv2d(nn.Conv2d):
    """A network's first convolution that reads further channels; they begin without effect.

    Its own weights keep their names, so weights of the network as it was load into it.
    """

    surroundings: nn.Conv2d

    @classmethod
    def around(cls, first: nn.Conv2d, channels: int) -> WidenedConv2d:
        """Take the weights of a convolution and add channels behind its own.

        Args:
            first: The convolution.
            channels: Further ones.
        """
        shape: dict[str, Any] = {"kernel_size": first.kernel_size, "stride": first.stride, "padding": first.padding}
        wide = cls(first.in_channels, first.out_channels, **shape, bias=first.bias is not None)
        wide.weight, wide.bias = first.weight, first.bias
        wide.surroundings = nn.Conv2d(channels, first.out_channels, **shape, bias=False)
        nn.init.zeros_(wide.surroundings.weight)
        return wide

    def forward(self, input: Tensor) -> Tensor:
        """Convolve the own channels, and add those behind them where there are some."""
        found = super().forward(input[:, : self.in_channels])
        if input.shape[1] == self.in_channels:
            return found
        return found + cast(Tensor, self.surroundings(input[:, self.in_channels :]))


def widen_first_convolution(network: nn.Module, channels: int) -> None:
    """Let a network read further channels behind its noisy input; they begin without effect.

    Args:
        network: Changed in place.
        channels: How many.

    Raises:
        UserError: It has no convolution.
    """
    first = next(((name, part) for name, part in network.named_modules() if isinstance(part, nn.Conv2d)), None)
    if first is None:
        raise UserError(
            f"{type(network).__name__} has no convolution, so nothing can be laid beside its noisy input. Allowed are "
            "networks that begin with one. Write family: PixArt, or StableDiffusion."
        )
    name, convolution = first
    network.set_submodule(name, WidenedConv2d.around(convolution, channels))
