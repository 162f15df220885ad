"""Experts that work for a while: as if they were put in, and nothing of the network is changed afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert, expert_of
from evolvedirector.experts.lent import base_alone, lent
from evolvedirector.experts.lora import LoRA, activate, inject

TARGETS = ["first", "second"]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.conv(x).mean((2, 3))).tanh())


def network_with(adapters: dict[str, LoRA], targets: list[str] = TARGETS) -> tuple[Network, Tensor]:
    """A network whose adapters do something, and an input."""
    torch.manual_seed(0)
    network, x = Network(), torch.randn(2, 3, 8, 8)
    inject(network, adapters, next(iter(adapters)), targets)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return network, x


@torch.no_grad()
def test_an_expert_lent_draws_as_the_adapter_does() -> None:
    adapters = {"count": LoRA(2, 4.0, seed=1), "colour": LoRA(3, seed=2), "conv": LoRA(2, targets=["conv"])}
    network, x = network_with(adapters)
    for name, lora in adapters.items():
        expert = expert_of(network, name, lora, "toy", "")
        activate(network, name)
        own = network(x)
        activate(network, "count")
        with lent(network, expert):
            torch.testing.assert_close(network(x), own, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_base_alone_is_the_network_before_any_adapter() -> None:
    torch.manual_seed(0)
    plain = Network()
    network, x = network_with({"count": LoRA(2)})
    assert not torch.allclose(network(x), plain(x))
    with base_alone(network):
        assert torch.equal(network(x), plain(x))
    with base_alone(plain):
        assert plain(x).isfinite().all(), "a network without adapters is its base"


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_active_and_trained_is_so_afterwards(fails: bool) -> None:
    network, x = network_with({"count": LoRA(2), "colour": LoRA(2)})
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name)  # all adapters wait with gradients, as stages leave them
    before, answer = {n: p.requires_grad for n, p in network.named_parameters()}, network(x)
    expert = expert_of(network, "colour", LoRA(2), "toy", "")
    try:
        with lent(network, expert):
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert {n: p.requires_grad for n, p in network.named_parameters()} == before
    assert torch.equal(network(x), answer) and not any(part._forward_hooks for part in network.modules())


def test_an_expert_of_another_network_is_refused() -> None:
    network, _ = network_with({"count": LoRA(2)})
    stranger = Expert("far", LoRA(2), {"third": (torch.zeros(2, 6), torch.zeros(8, 2))}, "toy", "")
    with pytest.raises(UserError, match="but Network has no such layer"), lent(network, stranger):
        pass
