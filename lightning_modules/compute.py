"""How a network is computed, whatever family it is of: memory against time, kernels, compilation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from torch import nn

from evolvedirector.errors import UserError


@dataclass(frozen=True)
class Compute:
    """Choose how the network is computed; what is learned stays the same.

    Args:
        gradient_checkpointing: Recompute blocks in the backward pass; saves memory, costs a third more time.
        compile_blocks: Compile each block (torch.compile); the first step takes minutes, and each new image size adds
            to that.
        attention_backend: Kernel of the attentions, by a name that diffusers gives it (`flash`, `_flash_3`,
            `_native_cudnn`, ...). None: as torch chooses.
    """

    gradient_checkpointing: bool = False
    compile_blocks: bool = False
    attention_backend: str | None = None


@runtime_checkable
class Checkpoints(Protocol):
    """A network that can recompute its blocks in the backward pass."""

    def enable_gradient_checkpointing(self) -> Any:
        """Do so from now on."""
        ...


def set_up(network: nn.Module, blocks: Sequence[nn.Module], compute: Compute) -> None:
    """Apply the choices to a network; call it after adapters are in it and before it is sharded.

    Args:
        network: Changed in place.
        blocks: Its repeated blocks.
        compute: The choices.

    Raises:
        UserError: The network cannot do one of them.
    """
    if compute.gradient_checkpointing:
        if not isinstance(network, Checkpoints):
            raise UserError(
                f"gradient_checkpointing is true, but {type(network).__name__} has no enable_gradient_checkpointing(). "
                "Allowed are networks of diffusers, and others with such a method. Write gradient_checkpointing: false."
            )
        network.enable_gradient_checkpointing()
    if compute.attention_backend is not None:
        _set_attention(network, compute.attention_backend)
    if compute.compile_blocks:
        for block in blocks:
            block.compile()  # in place: the names of its weights stay


def _set_attention(network: nn.Module, name: str) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    known = sorted(member.value for member in AttentionBackendName)
    if name not in known:
        raise UserError(
            f"attention_backend is {name!r}, which diffusers does not know. Allowed: {', '.join(known)}, or null for "
            "torch's own choice. Write attention_backend: null."
        )
    processors = [module.processor for module in network.modules() if hasattr(module, "processor")]
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise UserError(
            f"attention_backend is {name!r}, but the attentions of {type(network).__name__} take no backend: torch "
            "chooses their kernel (flash or memory-efficient where the device has one). Allowed is null. "
            "Write attention_backend: null."
        )
    try:
        cast(Any, network).set_attention_backend(name)
    except (RuntimeError, ImportError, ValueError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"attention_backend {name!r} does not work here: {said}. Allowed is one that is installed, or null for "
            "torch's own choice. Write attention_backend: null."
        ) from error
