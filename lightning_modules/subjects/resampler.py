"""From patch features of references to the tokens that the network attends to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from evolvedirector.lightning_modules.subjects.placement import grid_coordinates

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int64

_TURNS = (0.25, 0.5, 1.0, 2.0, 4.0)


class Resampler(nn.Module):
    """Turn the patches of all references of a subject into tokens that know where on the subject they lie.

    The perceiver resampler of Flamingo (Alayrac et al. 2022, arXiv:2204.14198, figure 5): queries read features in
    blocks of cross-attention. Here a query belongs to a place on the subject. With a `grid` there is one for each of
    its cells, which begins as the mean of the patches around its centre, so any number of references gives as many
    tokens; without, each patch is its own query and keeps its place.

    Args:
        dimension: Of the features.
        width: Of the tokens.
        grid: Cells per side. None: one token per patch.
        layers: Blocks of cross-attention; 0 leaves features where they are, projected.
        heads: Of the attentions.
        references: How many references a subject may have at most.
    """

    def __init__(self, dimension: int, width: int, grid: int | None, layers: int, heads: int, references: int) -> None:
        super().__init__()
        self.grid = grid
        self.project = nn.Linear(dimension, width)  # no norm before it: a black and a white patch would be one
        self.place = nn.Linear(4 * len(_TURNS), width)
        self.number = nn.Embedding(references, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.out = nn.LayerNorm(width)
        nn.init.normal_(self.number.weight, std=0.02)

    def forward(
        self,
        features: Float[Tensor, "batch token dimension"],
        coordinates: Float[Tensor, "batch token 2"],
        numbers: Int64[Tensor, "batch token"],
        mask: Bool[Tensor, "batch token"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens [batch, token, width], their places on the subject [batch, token, 2] and their mask.

        Args:
            features: Patches of all references.
            coordinates: Of each patch, as shares of the subject's box in its reference.
            numbers: Which reference each patch belongs to, from 0.
            mask: Which patches are there and show the subject.
        """
        states = self.project(features) + self.place(_waves(coordinates)) + self.number(numbers)
        if self.grid is None:
            queries, places, kept = states, coordinates, mask
        else:
            centres = grid_coordinates(self.grid, self.grid, states.device)
            places = centres.expand(len(states), -1, -1)
            queries = _around(states, coordinates, centres, mask, 1 / self.grid) + self.place(_waves(places))
            kept = mask.any(1, keepdim=True).expand(-1, len(centres))
        seen = mask | ~mask.any(1, keepdim=True)  # a row without reference reads anything, and is masked later
        for layer in self.layers:
            queries = layer(queries, states, seen)
        return self.out(queries), places, kept


class _Layer(nn.Module):
    """Cross-attention and a perceptron, both behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_states, self.norm_hidden = (nn.LayerNorm(width) for _ in range(3))
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))
        self.hidden, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        states = self.norm_states(states)
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(self.norm_query(queries)), self.to_k(states), self.to_v(states))
        )
        read = functional.scaled_dot_product_attention(query, key, value, mask[:, None, None])
        queries = queries + self.to_out(read.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.hidden(self.norm_hidden(queries)), approximate="tanh")
        return queries + self.back(hidden)


def _waves(coordinates: Tensor) -> Tensor:
    """Return sines and cosines of coordinates, [batch, token, 4 * number of turns]."""
    turns = coordinates.new_tensor(_TURNS)
    angles = (2 * math.pi * coordinates[..., None] * turns).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _around(states: Tensor, coordinates: Tensor, centres: Tensor, mask: Tensor, spread: float) -> Tensor:
    """Return sum_i w_ci s_i with w_ci ~ exp(-|x_i - c|^2 / (2 (spread / 2)^2)) for each centre c."""
    square = (coordinates[:, None] - centres[None, :, None]).square().sum(-1)  # [batch, centre, token]
    logits = -2 * square / spread**2
    logits = logits.masked_fill(~(mask | ~mask.any(1, keepdim=True))[:, None], -math.inf)
    return logits.softmax(-1).to(states.dtype) @ states
