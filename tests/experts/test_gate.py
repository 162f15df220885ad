"""Gates in a network: the uniform merge at their beginning, each sample by itself, and nothing else trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from evolvedirector.errors import UserError
from evolvedirector.experts import LoRA
from evolvedirector.experts.gate import (
    GatedLoRA,
    gate_parameters,
    gated_layers,
    gates_of,
    install_gates,
    mix,
    mixture,
    pooled_weights,
    remove_gates,
)
from evolvedirector.experts.lora import activate, inject, is_adapter
from evolvedirector.records.condition import Condition, Tokens
from tests.experts.gated_toys import KINDS, NAMES, answer, bare, filled, gated, inputs, uniform, with_experts
from tests.lightning_modules.tiny_student import family


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_of_zeros_is_the_uniform_merge(kind: str) -> None:
    merged = with_experts()
    base = answer(merged.train(False))
    uniform(merged)
    with torch.no_grad():
        found, expected = answer(gated(kind)), answer(merged)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (expected - base).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_reaches_every_gate_and_nothing_else(kind: str) -> None:
    network = gated(kind, awake=True)
    gates = gate_parameters(network)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad and is_adapter(name)}
    assert trained == gates.keys()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(is_adapter(name))  # as where other adapters of the network are trained in turns
    answer(network).square().mean().backward()
    assert len(gates) == 2 * 8 * (2 if kind == "pooled" else 1)
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name in gates), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_experts_is_their_names(kind: str) -> None:
    network = gated(kind, awake=True)
    with torch.no_grad():
        before = answer(network)
        remove_gates(network)
        first = gated(kind, awake=True)
        install_gates(network, NAMES[::-1], GatedLoRA(kind))  # type: ignore[arg-type]
        for name, gate in gates_of(network).items():
            weight = gates_of(first)[name].weight.flip(0)
            if kind == "pooled":  # columns lie by experts, too
                weight = weight.unflatten(1, (3, -1)).flip(1).flatten(1)
                gate.log_temperature.copy_(gates_of(first)[name].log_temperature)
            gate.weight.copy_(weight)
        torch.testing.assert_close(answer(network), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_expert_is_that_expert(kind: str) -> None:
    alone = with_experts()
    activate(alone, "colour")
    network = with_experts()
    install_gates(network, ["colour"], GatedLoRA(kind))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in gate_parameters(network).values():
            parameter.normal_()
        torch.testing.assert_close(answer(network), answer(alone), atol=1e-6, rtol=0)


def test_while_an_adapter_is_active_it_works_alone() -> None:
    network, alone = gated("token", awake=True), with_experts()
    activate(network, "place")
    activate(alone, "place")
    with torch.no_grad():
        mixed = answer(gated("token", awake=True))
        assert torch.equal(answer(network), answer(alone))
        mix(network)
        assert torch.equal(answer(network), mixed)
        remove_gates(network)
        assert not gate_parameters(network) and not any("gate" in name for name in network.state_dict())
        assert torch.equal(answer(network), answer(bare()))


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_is_gated_by_itself(kind: str) -> None:
    """As the halves of a guided batch must be, with and without text."""
    network = gated(kind, awake=True).eval()
    both = inputs()
    singles = [
        (
            both[0][row : row + 1],
            both[1][row : row + 1],
            Condition({"text": Tokens(*(part[row : row + 1] for part in (text.values, text.mask)))}),
        )
        for row, text in enumerate([both[2].tokens["text"]] * 2)
    ]
    with torch.no_grad():
        torch.testing.assert_close(answer(network, both), torch.cat([answer(network, one) for one in singles]))


def test_a_token_gate_is_the_softmax_of_a_product_by_hand() -> None:
    layer, x = one_layer("token", temperature=2.0), torch.randn(2, 5, 6)
    gate: Any = layer.gate_router
    weights = (x @ gate.weight.T / 2).softmax(-1)
    experts = [x @ layer.lora_A[name].weight.T @ layer.lora_B[name].weight.T for name in ("a", "b")]
    expected = layer.base_layer(x) + weights[..., :1] * 1.5 * experts[0] + weights[..., 1:] * 3.0 * experts[1]
    torch.testing.assert_close(layer(x), expected)


def test_a_pooled_gate_reads_the_means_of_what_the_experts_answer() -> None:
    layer, x = one_layer("pooled", temperature=0.5), torch.randn(2, 5, 6)
    gate: Any = layer.gate_router
    experts = [x @ layer.lora_A[name].weight.T @ layer.lora_B[name].weight.T for name in ("a", "b")]
    means = torch.cat([1.5 * experts[0].mean(1), 3.0 * experts[1].mean(1)], dim=-1)
    normed = (means - means.mean(-1, keepdim=True)) / (means.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    weights = (normed @ gate.weight.T / gate.log_temperature.exp()).softmax(-1)[:, None]
    expected = layer.base_layer(x) + weights[..., :1] * 1.5 * experts[0] + weights[..., 1:] * 3.0 * experts[1]
    torch.testing.assert_close(layer(x), expected)
    # its size depends neither on the number of tokens nor on whether there are any
    assert layer(torch.randn(2, 9, 6)).shape == (2, 9, 4) and layer(x[:, 0]).shape == (2, 4)


def test_a_constant_gate_reads_no_input() -> None:
    layer = one_layer("constant")
    gate: Any = layer.gate_router
    first, second = gate.weight.softmax(0)
    whole = first * 1.5 * layer.lora_B["a"].weight @ layer.lora_A["a"].weight
    whole = whole + second * 3.0 * layer.lora_B["b"].weight @ layer.lora_A["b"].weight
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + functional.linear(x, whole))


def one_layer(kind: Any, **settings: Any) -> Any:
    network = nn.ModuleDict({"linear": nn.Linear(6, 4)})
    inject(network, {"a": LoRA(2, alpha=3.0), "b": LoRA(3, alpha=9.0)}, "a", ["linear"])
    install_gates(network, ["a", "b"], GatedLoRA(kind, **settings))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if is_adapter(name):
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    return network["linear"]


@pytest.mark.parametrize("kind", KINDS)
def test_gates_are_float32_beside_a_base_in_less(kind: str) -> None:
    layer, x = one_layer(kind), torch.randn(2, 5, 6)
    expected = layer(x)
    layer.base_layer.to(torch.bfloat16)
    seen: list[torch.Tensor] = []
    layer.gate_router.watchers.append(seen.append)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert layer.gate_router.weight.dtype == seen[0].dtype == torch.float32 and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.3, rtol=0.05)
    plain = layer(x.bfloat16())  # a pipeline in bfloat16, without autocast
    assert plain.dtype == torch.bfloat16
    torch.testing.assert_close(plain.float(), expected, atol=0.3, rtol=0.05)


def test_layers_of_few_bits_take_gates() -> None:
    from evolvedirector.models.quantised import quantise

    torch.manual_seed(0)
    network = family().build().requires_grad_(False)
    quantise(network, family().blocks(network), "nf4", torch.float32, torch.device("cpu"))
    inject(network, {name: LoRA(2) for name in NAMES}, NAMES[0], family().lora_targets())
    filled(network)
    activate(network, NAMES[0])
    install_gates(network, NAMES, GatedLoRA("token"))
    with torch.no_grad():
        mixed = answer(network)
        uniform(network)
        torch.testing.assert_close(mixed, answer(network), atol=1e-6, rtol=0)


def test_weights_of_all_kinds_go_with_every_input() -> None:
    pairs = [(torch.randn(2, 6), torch.randn(4, 2), 1.0)] * 2
    for x in (torch.randn(3, 6), torch.randn(3, 5, 6), torch.randn(3, 2, 5, 6)):
        weights = pooled_weights(x, pairs, torch.randn(2, 8), torch.ones(1))
        assert weights.shape == (3, *[1] * (x.dim() - 2), 2)
        assert mixture(x, pairs, weights).shape == (*x.shape[:-1], 4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "topk"}, "kind of a gate is 'topk'.*Write kind: pooled"),
        ({"temperature": 0.0}, "temperature of a gate is 0.0.*above 0"),
        ({"balance_weight": -1.0}, "balance_weight -1.0.*from 0 up"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        GatedLoRA(**settings)


def test_experts_that_cannot_be_gated_are_refused_and_nothing_is_changed() -> None:
    network = with_experts()
    settings = GatedLoRA("token")
    for experts, said in [
        (["count", "count"], "names of adapters, each once"),
        ([], "names of adapters, each once"),
        (["count", "tone"], "has no expert 'tone'.*Allowed: colour, count, place"),
    ]:
        with pytest.raises(UserError, match=said):
            install_gates(network, experts, settings)
    inject(network, {"few": LoRA(2, targets=["attn1.to_q"])}, "few", ())
    with pytest.raises(UserError, match=r"'few' does not adapt transformer_blocks\.0\.attn1\.to_k.*same targets"):
        install_gates(network, ["count", "few"], settings)
    assert not gated_layers(network)
    install_gates(network, NAMES, settings)
    with pytest.raises(UserError, match="has gates already"):
        install_gates(network, NAMES, settings)


@pytest.mark.parametrize(
    ("layer", "dora", "said"),
    [
        (nn.Conv2d(3, 4, 3), False, "The experts adapt it, a convolution.*Leave convolutions out of targets"),
        (nn.Linear(3, 4), True, "'a' is a DoRA"),
    ],
)
def test_layers_and_loras_without_such_a_sum_are_refused(layer: nn.Module, dora: bool, said: str) -> None:
    network = nn.ModuleDict({"it": layer})
    inject(network, {"a": LoRA(2, dora=dora)}, "a", ["it"])
    with pytest.raises(UserError, match=said):
        install_gates(network, ["a"], GatedLoRA("token"))
