"""What gates choose: the balance loss by hand, under gradient checkpointing, and the means for a report."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from evolvedirector.errors import RunError
from evolvedirector.experts.gate import gate_parameters
from evolvedirector.experts.gate_weights import balance_loss, collecting, weighing
from evolvedirector.experts.lora import activate
from tests.experts.gated_toys import KINDS, NAMES, answer, gated, inputs


def test_the_balance_loss_by_hand() -> None:
    # two layers, two samples, two experts: tokens are averaged, then layers, then -log q_1 q_2, then samples
    tokens = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.4, 0.6]]])
    pooled = torch.tensor([[[0.3, 0.7]], [[0.6, 0.4]]])
    shares = [(0.5, 0.5), (0.45, 0.55)]
    expected = -sum(math.log(first * second) for first, second in shares) / 2
    assert float(balance_loss({"a": [tokens], "b": [pooled]})) == pytest.approx(expected, rel=1e-6)
    # a constant gate says the same for every sample
    constant = {"a": [torch.tensor([0.25, 0.75])], "b": [torch.tensor([0.75, 0.25])]}
    assert float(balance_loss(constant)) == pytest.approx(2 * math.log(2))
    assert float(balance_loss({"a": [torch.tensor([0.99, 0.01])]})) > 4


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_least_at_the_beginning_and_draws_gates_back_there(kind: str) -> None:
    network = gated(kind)
    with collecting(network) as seen:
        answer(network)
    assert len(seen) == 16 and float(balance_loss(seen).detach()) == pytest.approx(3 * math.log(3), rel=1e-5)
    network = gated(kind, awake=True)
    gates = list(gate_parameters(network).values())
    optimizer = torch.optim.Adam(gates, lr=0.1)
    losses = []
    for _ in range(8):
        with collecting(network) as seen:
            answer(network)
        loss = balance_loss(seen)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    above = [loss - 3 * math.log(3) for loss in losses]
    assert above[0] > 0.01 and -1e-4 < above[-1] < 0.7 * above[0]


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_blocks_give_the_same_gradients_and_count_once(kind: str) -> None:
    def gradients(checkpointing: bool) -> tuple[dict[str, Any], int]:
        network: Any = gated(kind, awake=True).train()
        if checkpointing:
            network.enable_gradient_checkpointing()
        with collecting(network) as seen:
            prediction = answer(network)
        (prediction.square().mean() + 0.5 * balance_loss(seen)).backward()
        passes = sum(map(len, seen.values()))
        return {name: parameter.grad for name, parameter in gate_parameters(network).items()}, passes

    plain, passes = gradients(False)
    again, recomputed = gradients(True)
    assert passes == recomputed == 16
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-7, rtol=1e-5)


def test_the_balance_has_a_share_in_the_gradients() -> None:
    network = gated("token", awake=True)
    with collecting(network) as seen:
        answer(network)
    balance_loss(seen).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in gate_parameters(network).values())
    answer(network)
    assert sum(map(len, seen.values())) == 16  # nothing is collected behind the block


def test_where_no_gate_works_there_is_no_balance() -> None:
    network = gated("token")
    activate(network, "count")
    with collecting(network) as seen, torch.no_grad():
        answer(network)
    with pytest.raises(RunError, match="No gate worked"):
        balance_loss(seen)
    with pytest.raises(RunError, match="No gate worked"):
        balance_loss({})


@pytest.mark.parametrize("kind", KINDS)
def test_means_by_layer_are_those_of_all_samples_and_passes(kind: str) -> None:
    network = gated(kind, awake=True)
    with weighing(network) as means, collecting(network) as seen, torch.no_grad():
        answer(network, inputs(2))
        answer(network, inputs(4, seed=1))
    table = means.by_layer()
    assert table.keys() == seen.keys() and all(list(row) == list(NAMES) for row in table.values())
    for layer, passes in seen.items():
        one = passes[0] if kind == "constant" else torch.cat([part.flatten(1, -2).mean(1) for part in passes]).mean(0)
        assert list(table[layer].values()) == pytest.approx(one.tolist(), rel=1e-5)
        assert sum(table[layer].values()) == pytest.approx(1, rel=1e-5)
    # of an expert that answers at once where others do not, gates have something to say
    assert max(max(row.values()) for row in table.values()) > 0.4


def test_a_network_without_gates_has_nothing_to_tell() -> None:
    with weighing(nn.Linear(2, 2)) as means:
        pass
    assert means.by_layer() == {}
