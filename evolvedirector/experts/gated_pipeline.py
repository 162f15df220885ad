"""Gated experts in a stock pipeline of diffusers, or in any network: loaded from their file, and taken out again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from torch import nn

from evolvedirector.errors import UserError
from evolvedirector.experts.gate import gates_of
from evolvedirector.experts.gated_experts import put_gated
from evolvedirector.experts.gated_files import read_gated
from evolvedirector.experts.lora import base_digest

_NETWORKS = ("transformer", "unet")


class Pipeline(Protocol):
    """What is asked of a pipeline of diffusers: its parts by name."""

    @property
    def components(self) -> Mapping[str, Any]:
        """Networks, encoders, scheduler."""
        ...


def load_gated_lora(target: Pipeline | nn.Module, path: str | Path, check_base: bool = True) -> None:
    """Load experts with their gates into a pipeline, which then draws with their mixture until `unload_gated_lora`.

    Experts and gates are float32 beside weights of any precision. Guidance needs nothing: the half of a batch with text
    and the half without are gated apart. A mixture that depends on the input cannot be fused, and `scale` of the
    pipeline's call does not reach it.

    Args:
        target: A pipeline with a transformer or a UNet, or the network itself.
        path: As `write_gated` wrote it.
        check_base: Refuse a network whose weights are not those beside which the experts were trained. Their digest
            holds for the precision in which they were then; false for the same weights in another one.

    Raises:
        UserError: The file is none, the network another one, or it has adapters already.
    """
    network = _network(target)
    gated = read_gated(Path(path))
    if _has_adapters(network):
        raise UserError(
            f"{type(network).__name__} has adapters already, and gated experts work alone. Allowed is a plain network. "
            "Take them out first: unload_gated_lora(pipeline), or pipeline.unload_lora_weights()."
        )
    found = base_digest(network) if check_base else gated.base_digest
    if gated.base_digest and found != gated.base_digest:
        raise UserError(
            f"The weights of this {type(network).__name__} have the digest {found}, but the experts in {path} were "
            f"trained beside {gated.base or 'a base'} ({gated.base_digest}). Beside other weights they mean nothing. "
            "Load that base in float32; for the same weights in less, write check_base=False."
        )
    put_gated(network, gated)


def unload_gated_lora(target: Pipeline | nn.Module) -> None:
    """Take experts and gates out again: the network is what it was before.

    Args:
        target: As it was given to `load_gated_lora`.

    Raises:
        UserError: There are no gates.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = _network(target)
    if not gates_of(network):
        raise UserError(
            f"{type(network).__name__} has no gates to take out. Allowed is what load_gated_lora was given. Leave this "
            "call out."
        )
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BaseTunerLayer):
                setattr(parent, name, layer.get_base_layer())
    del network.peft_config  # peft leaves it at the network


def _network(target: Pipeline | nn.Module) -> nn.Module:
    if isinstance(target, nn.Module):
        return target
    found = [target.components[name] for name in _NETWORKS if isinstance(target.components.get(name), nn.Module)]
    if len(found) != 1:
        raise UserError(
            f"{type(target).__name__} has {len(found)} networks of the names {' and '.join(_NETWORKS)}. Allowed is "
            "one. Give the network itself, load_gated_lora(pipeline.transformer, path)."
        )
    return cast(nn.Module, found[0])


def _has_adapters(network: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(part, BaseTunerLayer) for part in network.modules())
