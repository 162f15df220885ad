"""What the tests of gates share: a tiny network with experts that do something, and what goes into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evolvedirector.experts import LoRA
from evolvedirector.experts.gate import GatedLoRA, gate_parameters, install_gates
from evolvedirector.experts.lora import inject
from evolvedirector.records.condition import Condition, Tokens
from tests.lightning_modules.tiny_student import SIDE, family

NAMES = ("count", "colour", "place")
KINDS = ("token", "pooled", "constant")


def filled(network: nn.Module, names: Sequence[str] = NAMES, scale: float = 0.3) -> nn.Module:
    """Give the experts of a network answers of their own: B begins at zero."""
    with torch.no_grad():
        for part in network.modules():
            for number, name in enumerate(names):
                if name in getattr(part, "lora_B", ()):
                    weight = part.lora_B[name].weight  # type: ignore[union-attr, index]
                    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number + weight.numel()))
                    weight.copy_(scale * drawn)
    return network


def bare() -> nn.Module:
    torch.manual_seed(0)
    return family().build()


def with_experts(names: Sequence[str] = NAMES, ranks: Sequence[int] = (2, 4, 3)) -> nn.Module:
    """A tiny PixArt with experts of several ranks, and of scales other than one."""
    network = bare()
    loras = {name: LoRA(rank, alpha=rank + 1.0, seed=7) for name, rank in zip(names, ranks, strict=True)}
    inject(network, loras, names[0], family().lora_targets())
    return filled(network, names)


def gated(kind: Any, names: Sequence[str] = NAMES, awake: bool = False, **settings: Any) -> nn.Module:
    """The same with gates; awake ones have weights that are not zero."""
    network = with_experts(names)
    install_gates(network, names, GatedLoRA(kind, **settings))
    if awake:
        wake(network)
    return network


def wake(network: nn.Module) -> None:
    """Give the gates weights that depend on nothing but their names."""
    with torch.no_grad():
        for number, parameter in enumerate(gate_parameters(network).values()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))


def inputs(batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(seed)
    text = Tokens(torch.randn(batch, 4, 16, generator=generator), torch.ones(batch, 4).bool())
    noisy = torch.randn(batch, 3, SIDE, SIDE, generator=generator)
    return noisy, torch.linspace(0.1, 0.9, batch), Condition({"text": text})


def answer(network: nn.Module, given: tuple[Tensor, Tensor, Condition] | None = None) -> Tensor:
    return family().predict(network, *(given or inputs()))


def uniform(network: nn.Module, names: Sequence[str] = NAMES) -> None:
    """Let peft add all experts, each with 1/N: what `set_adapters(names, weights)` of diffusers does."""
    from peft.tuners.lora import LoraLayer

    for part in network.modules():
        if isinstance(part, LoraLayer):
            part.set_adapter(list(names))
            for name in names:
                part.set_scale(name, 1 / len(names))
