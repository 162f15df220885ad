"""What a computation allocates, read from the storages that its operations make: on real, fake and meta tensors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocationTracker(TorchDispatchMode):
    """Count the bytes of storages that come and go while the mode is on; what was there before counts as nothing.

    Memory that a kernel takes and gives back inside one operation is not seen (workspaces of convolutions), nor is what
    an allocator keeps in reserve.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        """Of what was allocated since and is still there."""
        self.peak_bytes = 0
        """The most that there was at once."""
        self._known: dict[int, weakref.ref[Any]] = {}

    def start_anew(self) -> None:
        """Let the peak begin at what is there now."""
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and look at what it made."""
        for given in _tensors((args, kwargs)):
            self._see(given, is_new=False)
        result = func(*args, **(kwargs or {}))
        for made in _tensors(result):
            self._see(made, is_new=True)
        return result

    def _see(self, tensor: Tensor, is_new: bool) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)  # torch keeps one Python object for a storage as long as the storage lives
        if key in self._known:
            return
        size = storage.nbytes() if is_new else 0

        def gone(_: Any) -> None:
            del self._known[key]
            self.live_bytes -= size

        self._known[key] = weakref.ref(storage, gone)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Sum storages, each once however many tensors share it.

    Args:
        tensors: Of one device.
    """
    storages = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storage.nbytes() for storage in storages.values())


def living_tensors(device_type: str) -> list[Tensor]:
    """List the tensors of this process that Python knows, and their gradients.

    Args:
        device_type: `cpu` or `cuda`.
    """
    found = [part for part in gc.get_objects() if issubclass(type(part), Tensor)]
    gradients = [part.grad for part in found if part.is_leaf and part.grad is not None]
    plain = [part for part in [*found, *gradients] if part.layout == torch.strided]
    return [part for part in plain if part.device.type == device_type]


def _tensors(tree: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided)
