"""Decoupled cross-attention: beside its text, an attention layer reads the tokens of a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.subjects.placement import grid, grid_coordinates, rotate

KEY = "ip_hidden_states"
"""Under this name diffusers hands tokens of pictures to attentions, and lets those that read none pass over them."""


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """What attention layers read of the references of a batch.

    Args:
        values: Float[batch, token, width]: tokens of references, and behind them those of the null reference.
        places: Float[batch, token, 2]: where each stands, as shares of the canvas.
        mask: Bool[batch, token]: which count. A row without a reference reads the null reference.
        null: Bool[token]: which are the null reference's.
        canvas: Height and width of the noisy image or latent.
        strength: Float[batch]: see `ReferenceAttention`. None: 1.
    """

    values: Tensor
    places: Tensor
    mask: Tensor
    null: Tensor
    canvas: tuple[int, int]
    strength: Tensor | None = None


class ReferenceAttention(nn.Module):
    """Add attention to a reference to a layer's attention to the text (Ye et al. 2023, arXiv:2308.06721, eq. 5).

    z = A(text) + A0 + s (A(reference) - A0), where A0 is the attention to a trained null reference: at s = 0 the layer
    computes what it computes without a reference, at s = 1 what it was trained to. Queries and keys are rotated by
    their places on the canvas, so that a patch finds the part of the subject that is to stand where it is; both are
    normalised, with a trained gain, and begin with a common part: attention starts out local. The output begins at
    zero, so that untrained layers leave a network as it was.

    Args:
        attention: The cross-attention of diffusers that this becomes the processor of.
        width: Of the tokens.
        gain: Of normalised queries and keys, at the start.
    """

    def __init__(self, attention: Any, width: int, gain: float) -> None:
        super().__init__()
        inner, head_dim = attention.inner_dim, attention.inner_dim // attention.heads
        if head_dim % 4:
            raise UserError(
                f"An attention of the network has {head_dim} channels per head. Places in two dimensions need a "
                "multiple of 4. Choose another number of heads."
            )
        self._text = attention.processor
        self.to_q = nn.Linear(attention.query_dim, inner)
        self.to_k, self.to_v = nn.Linear(width, inner), nn.Linear(width, inner)
        self.to_out = nn.Linear(inner, attention.out_dim)
        self.gain_q, self.gain_k = (nn.Parameter(torch.full((head_dim,), gain)) for _ in range(2))
        for layer in (self.to_q, self.to_k):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.ones_(layer.bias)
        nn.init.xavier_uniform_(self.to_v.weight)
        for weights in (self.to_v.bias, self.to_out.weight, self.to_out.bias):
            nn.init.zeros_(weights)

    # diffusers reads the names of these parameters to learn what a processor takes; `nn.Module.__call__` names none
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        ip_hidden_states: References | None = None,
    ) -> Tensor:
        text = cast(Tensor, self._text(attn, hidden_states, encoder_hidden_states, attention_mask, temb))
        if ip_hidden_states is None:
            return text
        return text + self.read(hidden_states, ip_hidden_states)

    def read(self, states: Tensor, references: References) -> Tensor:
        """Return what the references add, [batch, query, channel].

        Args:
            states: Float[batch, query, channel]: tokens of the canvas, row by row.
            references: To read.
        """
        rows, columns = grid(states.shape[1], *references.canvas)
        places = grid_coordinates(rows, columns, states.device).expand(len(states), -1, -1)
        query = rotate(self._normal(self.to_q(states), self.gain_q), places)
        key = rotate(self._normal(self.to_k(references.values), self.gain_k), references.places)
        value = self._heads(self.to_v(references.values))
        read = self._attend(query, key, value, references.mask)
        if references.strength is not None:
            null = self._attend(query, key, value, references.null.expand_as(references.mask))
            read = null + references.strength[:, None, None].to(read.dtype) * (read - null)
        return cast(Tensor, self.to_out(read))

    def _heads(self, values: Tensor) -> Tensor:
        return values.unflatten(2, (-1, len(self.gain_q))).transpose(1, 2)

    def _normal(self, values: Tensor, gain: Tensor) -> Tensor:
        return functional.rms_norm(self._heads(values).float(), gain.shape, gain.float()).to(values.dtype)

    @staticmethod
    def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        read = functional.scaled_dot_product_attention(query, key, value.to(query.dtype), mask[:, None, None])
        return read.transpose(1, 2).flatten(2)


def attach(network: nn.Module, width: int, gain: float) -> int:
    """Let every cross-attention of a network read references; returns how many there are.

    Args:
        network: Of diffusers; changed in place.
        width: Of the tokens.
        gain: Of queries and keys.

    Raises:
        UserError: It has none.
    """
    from diffusers.models.attention_processor import Attention

    found: list[Any] = [part for part in network.modules() if isinstance(part, Attention) and part.is_cross_attention]
    if not found:
        raise UserError(
            f"{type(network).__name__} has no cross-attention, beside which a reference could be read. Allowed are "
            "networks that read their text so. Write family: PixArt, or StableDiffusion."
        )
    for attention in found:
        attention.set_processor(ReferenceAttention(attention, width, gain))
    return len(found)
