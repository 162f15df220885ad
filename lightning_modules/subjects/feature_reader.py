"""The trained part of a network that reads a grid of patch features beside its noisy input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evolvedirector.lightning_modules.subjects.widened_convolution import widen_first_convolution

if TYPE_CHECKING:
    from jaxtyping import Float

NAME = "feature_reader"
"""Under this name the reader lies in its network, and its input travels to it."""


class FeatureReader(nn.Module):
    """Turn a grid of patch features into channels that lie beside the noisy input.

    Args:
        dimension: Of the features.
        width: Channels that they become; one more says where features are known.
    """

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(dimension, width), nn.GELU(), nn.Linear(width, width))
        self.missing = nn.Parameter(torch.zeros(width))

    def forward(
        self, grid: Float[Tensor, "batch dimension rows columns"], known: Float[Tensor, "batch 1 rows columns"]
    ) -> Float[Tensor, "batch channel rows columns"]:
        """Return the channels, on the grid.

        Args:
            grid: Features of patches.
            known: 1 where there are some, 0 where the trained stand-in is read.
        """
        # encoders differ by orders of magnitude, and so do the values of one: log(1 + |f|) brings them together
        values = grid.sign() * grid.abs().log1p()
        found = self.project(values.movedim(1, -1))
        there = known.movedim(1, -1).to(found)
        return torch.cat([found * there + self.missing.to(found) * (1 - there), there], dim=-1).movedim(-1, 1)


def let_read_features(network: nn.Module, dimension: int, width: int) -> None:
    """Give a network a reader and channels for what it makes, which begin without effect.

    The reader runs inside of the network's own forward pass: sharded weights are together only there.

    Args:
        network: Of diffusers; changed in place.
        dimension: Of the features.
        width: Channels that they become.

    Raises:
        UserError: The network begins with no convolution.
    """
    widen_first_convolution(network, width + 1)
    network.add_module(NAME, FeatureReader(dimension, width))
    network.register_forward_pre_hook(_lay_beside, with_kwargs=True)


def _lay_beside(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    inputs: tuple[Tensor, Tensor] | None = kwargs.pop(NAME, None)
    if inputs is None:
        return args, kwargs
    noisy = args[0] if args else kwargs["hidden_states"]
    read: Tensor = network.get_submodule(NAME)(*inputs)
    # antialias: of a grid finer than the latent no patch is passed over
    laid = functional.interpolate(read.float(), noisy.shape[-2:], mode="bilinear", antialias=True)
    noisy = torch.cat([noisy, laid.to(noisy)], dim=1)
    return ((noisy, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": noisy})
