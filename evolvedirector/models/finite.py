"""Whether weights are finite, at the price of reading them once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether every value is finite; waits for the device once.

    Norms are read first: they are fast, and finite only where all values are. A norm may overflow over finite values,
    so one that did is followed by the exact question.

    Args:
        tensors: Of any shapes; integers count as finite, and of a sharded tensor what this process holds is looked at.
    """
    made = [tensor for tensor in tensors if not is_lazy(tensor)]  # a lazy layer has no values before its first batch
    held = [tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach() for tensor in made]
    held = [tensor for tensor in held if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta]
    held = [tensor.float() if tensor.itemsize == 1 else tensor for tensor in held]  # no kernels for 8-bit floats
    if not held:
        return True
    norms = torch._foreach_norm(held)
    if all(bool(torch.stack(of_type).isfinite().all()) for of_type in _by_kind(norms)):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in held)


def _by_kind(norms: Iterable[Tensor]) -> list[list[Tensor]]:
    """Group scalars by device and type: only alike ones can be stacked."""
    found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for norm in norms:
        found.setdefault((norm.device, norm.dtype), []).append(norm)
    return list(found.values())
