"""Names of LoRA tensors in the layouts of other tools, for networks whose layers all tools call as diffusers does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.families.family import KeyMap, Layout

# peft's suffix -> that of ComfyUI and kohya's scripts. `alpha` is a number beside each pair: its factor times the rank.
_SUFFIXES = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight", ".alpha": ".alpha"}


@dataclass(frozen=True, slots=True)
class LoraNames:
    """Name LoRA tensors as ComfyUI (`diffusion_model.<layer>`) or kohya's scripts do (`lora_unet_<layer>`, _ for dots).

    Args:
        family: Name of the family, for the error.
        layout: Who reads the weights.
    """

    family: str
    layout: Layout

    def __call__(self, name: str) -> str:
        """Return the name of a tensor.

        Args:
            name: In the network: the layer, then `.lora_A.weight`, `.lora_B.weight` or `.alpha`.

        Raises:
            UserError: It is no LoRA tensor.
        """
        for suffix, theirs in _SUFFIXES.items():
            if name.endswith(suffix):
                layer = name.removesuffix(suffix)
                flat = f"lora_unet_{layer.replace('.', '_')}"
                return (flat if self.layout == "kohya" else f"diffusion_model.{layer}") + theirs
        raise UserError(
            f"{name!r} is no LoRA tensor, and the {self.layout} layout of {self.family} is one of LoRA files. Allowed "
            f"are names that end in {', '.join(_SUFFIXES)}. Export whole weights with layout: diffusers."
        )

    @property
    def has_alpha(self) -> bool:
        """Whether files hold an alpha for each layer: always."""
        return True

    def fused(self, layer: str) -> Sequence[str]:
        """List the layers of the network that the layout keeps as one: each is its own."""
        return (layer,)


def lora_names(family: str, layout: Layout) -> KeyMap:
    """Return the identity for the diffusers layout, else how LoRA tensors are called.

    Args:
        family: Name of the family, for the error.
        layout: Who reads the weights.
    """
    return (lambda name: name) if layout == "diffusers" else LoraNames(family, layout)
