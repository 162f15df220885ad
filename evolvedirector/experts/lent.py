"""Let a network draw for a while with another expert, with its gates, or with its base alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evolvedirector.experts.expert import Expert, check_layers
from evolvedirector.experts.gate import mix


@contextmanager
def base_alone(network: nn.Module) -> Iterator[None]:
    """Let the base work alone inside of the block: no adapter, no gate.

    What is active and what is trained is as before afterwards. Compiled blocks run uncompiled meanwhile, since a
    compiled one may not see what was changed.

    Args:
        network: With or without adapters.
    """
    with _kept(network) as layers:
        for layer in layers:
            layer.enable_adapters(False)
        yield


@contextmanager
def gate_at_work(network: nn.Module) -> Iterator[None]:
    """Let the gates mix their experts inside of the block, whatever worked before.

    Args:
        network: With gates.
    """
    with _kept(network) as layers:
        for layer in layers:
            layer.enable_adapters(True)
            for name in layer.scaling:
                layer.set_scale(name, 1.0)  # whatever sum worked before
        mix(network)
        yield


@contextmanager
def lent(network: nn.Module, expert: Expert) -> Iterator[None]:
    """Let one expert work alone inside of the block without putting it in: y = W x + (alpha / rank) B A x.

    Its rank, alpha and layers need not be those of the adapters there, and a sharded network takes it too: experts,
    merges of any rank and files of others draw with the same arithmetic.

    Args:
        network: With or without adapters, which wait.
        expert: Of this network.

    Raises:
        UserError: The network lacks a layer of the expert, or has one of another shape.
    """
    check_layers(network, expert)
    parts = dict(network.named_modules())
    handles: list[torch.utils.hooks.RemovableHandle] = []
    with base_alone(network):
        try:
            for layer, factors in expert.factors.items():
                hook = _adds(expert.lora.scale, *factors, _convolution(parts[layer]))
                handles.append(parts[layer].register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _adds(scale: float, down: Tensor, up: Tensor, like: nn.Conv2d | None) -> Callable[..., Tensor]:
    """Return a forward hook that adds s B A x to what a layer answers; the factors follow the input to its device."""
    there: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        if x.device not in there:
            there[x.device] = down.to(x.device), up.to(x.device)
        first, second = there[x.device]
        x = x.to(first.dtype)  # as peft: the change is computed in float32, or as autocast says
        if like is None:
            change = functional.linear(functional.linear(x, first), second)
        else:
            narrow = functional.conv2d(x, first, None, like.stride, like.padding, like.dilation)
            change = functional.conv2d(narrow, second)
        return (output + change * scale).to(output.dtype)

    return hook


@contextmanager
def _kept(network: nn.Module) -> Iterator[list[Any]]:
    """Yield the adapted layers; whatever the block does to them is undone."""
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [part for part in network.modules() if isinstance(part, LoraLayer)]
    before = [(layer, layer.active_adapters, layer.disable_adapters, dict(layer.scaling)) for layer in layers]
    trained = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    with torch.compiler.set_stance("force_eager"):
        try:
            yield layers
        finally:
            for layer, active, disabled, scaling in before:
                layer.enable_adapters(not disabled)
                layer.set_adapter(active)
                layer.scaling.update(scaling)
            for parameter, is_trained in trained:
                parameter.requires_grad_(is_trained)


def _convolution(part: nn.Module) -> nn.Conv2d | None:
    inner = getattr(part, "base_layer", part)  # peft keeps the layer there
    return inner if isinstance(inner, nn.Conv2d) else None
