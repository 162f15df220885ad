"""Frozen weights in less than float32: bfloat16, 8 or 4 bits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.models.quantised_shapes import QuantisedShape

BasePrecision = Literal["float32", "bfloat16", "nf4", "int8"]
BASE_PRECISIONS: tuple[str, ...] = get_args(BasePrecision)
_OUTLIER_THRESHOLD = 6.0  # LLM.int8() (arXiv:2208.07339): columns with larger inputs are multiplied in half precision
_CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def to_bfloat16(network: nn.Module) -> None:
    """Keep the weights of linear and convolutional layers in bfloat16.

    Autocast to bfloat16 rounds exactly these before each product, so results stay what they are, to the bit. Norms and
    tables, which it leaves alone, stay float32.

    Args:
        network: Frozen; changed in place.
    """
    for module in network.modules():
        if type(module) in _CAST:
            module.to(torch.bfloat16)


def quantise(
    network: nn.Module,
    blocks: Sequence[nn.Module],
    how: Literal["nf4", "int8"],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Quantise the linear layers of blocks through bitsandbytes; everything else stays as it is.

    On the device `meta` (a run is only weighed) layers become `QuantisedShape`.

    Args:
        network: Frozen; changed in place.
        blocks: Parts of it that hold nearly all weights.
        how: `nf4`, 4 bits with doubly quantised scales per 64 values; `int8`, 8 bits with a scale per row.
        dtype: In which `nf4` layers compute.
        device: Where they are quantised and stay.

    Raises:
        UserError: There is nothing to quantise.
    """
    found = [
        (parent, name, layer)
        for block in blocks
        for parent in block.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear
    ]
    if not found:
        raise UserError(
            f"The blocks of {type(network).__name__} have no linear layers, so base_precision: {how} would save "
            "nothing. Allowed for it are float32 and bfloat16. Write base_precision: bfloat16."
        )
    for parent, name, layer in found:
        if layer.weight.is_meta:
            setattr(parent, name, QuantisedShape(layer, how, dtype))
        else:
            setattr(parent, name, _four_bit(layer, dtype, device) if how == "nf4" else _eight_bit(layer, device))
    # peft asks for it, and chooses its layers by it
    network.is_loaded_in_4bit, network.is_loaded_in_8bit = how == "nf4", how == "int8"  # type: ignore[assignment]


def is_quantised(network: nn.Module) -> bool:
    """Say whether a network has layers of bitsandbytes.

    Args:
        network: Any.
    """
    return next(quantised_layers(network), None) is not None


def quantised_layers(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of bitsandbytes.

    Args:
        network: Any.
    """
    return (part for part in network.modules() if type(part).__module__.startswith("bitsandbytes"))


def constant_bytes(network: nn.Module) -> int:
    """Return what quantised layers hold beside parameters and buffers: scales and tables.

    Args:
        network: Any; one without such layers has none.
    """
    held: list[Tensor] = []
    for layer in cast(Iterator[Any], quantised_layers(network)):
        if type(layer).__name__ == "Linear4bit":
            state = layer.weight.quant_state
            held += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
        else:  # after its first product they are elsewhere
            held.append(layer.weight.SCB if layer.state.SCB is None else layer.state.SCB)
    storages = {id(storage): storage for storage in (part.untyped_storage() for part in held)}
    return sum(storage.nbytes() for storage in storages.values())


def _four_bit(layer: nn.Linear, dtype: torch.dtype, device: torch.device) -> nn.Module:
    import bitsandbytes

    made: Any = bitsandbytes.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=dtype,
        quant_type="nf4",
        device="meta",
    )
    made.weight = bitsandbytes.nn.Params4bit(
        layer.weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
    )
    # It would pack weights anew for each drawing on a CPU that can, and not unpack them for the next training step.
    made.support_avx512bf16_for_cpu = False
    return _with_bias(made, layer).to(device)


def _eight_bit(layer: nn.Linear, device: torch.device) -> nn.Module:
    import bitsandbytes

    # it would say for every product of every layer that inputs are cast to float16
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    made: Any = bitsandbytes.nn.Linear8bitLt(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        has_fp16_weights=False,
        threshold=_OUTLIER_THRESHOLD,
        device="meta",
    )
    made.weight = bitsandbytes.nn.Int8Params(layer.weight.detach(), requires_grad=False, has_fp16_weights=False)
    return _with_bias(made, layer).to(device)


def _with_bias(made: nn.Module, layer: nn.Linear) -> nn.Module:
    made.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    return made.train(layer.training)
