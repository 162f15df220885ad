"""Quantised linear layers without values: they hold what bitsandbytes holds, and allocate what it allocates.

A run is weighed by them before anything is loaded, on the meta device and on tensors without memory.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

_VALUES_PER_SCALE = 64
_SCALES_PER_SCALE = 256  # of the scales, which are quantised themselves to 8 bits


class QuantisedShape(nn.Linear):
    """Stand in for a linear layer that bitsandbytes would hold in 4 or 8 bits.

    `nf4` (QLoRA, arXiv:2305.14314, section 3) keeps two values in a byte, an 8-bit scale per 64 values, and for each
    256 of those scales one in float32, beside tables of 16 and 256 values; `int8` (arXiv:2208.07339) keeps a byte per
    value and a float32 scale per row. For a product all weights of the layer are made anew in the precision of the
    inputs, and again for the backward pass. A product of int8 without gradients stays in 8 bits, as a GPU computes it.

    Args:
        layer: Whose place it takes; on the meta device.
        how: In what it is held.
        dtype: In which `nf4` layers compute.
    """

    scales: Tensor
    constants: Tensor

    def __init__(self, layer: nn.Linear, how: Literal["nf4", "int8"], dtype: torch.dtype) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        values, rows = layer.weight.numel(), layer.out_features
        packed = -(-values // 2) if how == "nf4" else values
        self.weight = nn.Parameter(torch.empty(packed, dtype=torch.uint8, device="meta"), requires_grad=False)
        if layer.bias is not None:
            self.bias = layer.bias
        self.how, self.dtype = how, dtype
        if how == "nf4":
            scales = -(-values // _VALUES_PER_SCALE)
            constants = -(-scales // _SCALES_PER_SCALE) + 16 + 256 + 1  # scales of scales, both tables, their mean
            self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8, device="meta"), persistent=False)
        else:
            constants = rows
        self.register_buffer("constants", torch.empty(constants, device="meta"), persistent=False)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return a product of the right shape, allocating on the way what the real layer does."""
        if self.how == "nf4":
            product: Tensor = _Product.apply(input.to(self.dtype), self, False)
            return product.to(input.dtype)
        if self.training and torch.is_grad_enabled():
            return _Product.apply(input, self, True)  # type: ignore[no-any-return]
        half = input.to(torch.float16)
        eighths = half.to(torch.int8)
        product = torch.empty(*input.shape[:-1], self.out_features, dtype=torch.int32, device=input.device)
        del half, eighths
        found = product.to(input.dtype)
        return found if self.bias is None else found + self.bias.to(input.dtype)


class _Product(torch.autograd.Function):
    """y = W x with W made for the occasion; its gradient makes it again. Only `int8` keeps x."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, layer: QuantisedShape, keeps: bool) -> Tensor:
        ctx.layer, ctx.kept = layer, values if keeps else None
        ctx.shape, ctx.dtype = values.shape, values.dtype
        bias = None if layer.bias is None else layer.bias.to(values.dtype)
        return linear(values, _made_weights(layer, values), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        gradient = gradient.to(ctx.dtype)
        return torch.matmul(gradient, _made_weights(ctx.layer, gradient)), None, None


def _made_weights(layer: QuantisedShape, like: Tensor) -> Tensor:
    if layer.how == "nf4":
        like.new_empty(layer.scales.shape, dtype=torch.float32)
    return like.new_empty(layer.out_features, layer.in_features)
