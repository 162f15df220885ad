"""Several experts in one network: alike at the beginning, working alone or together, all of them trained in turn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.experts import GatedLoRA, LoRA, Trained
from evolvedirector.experts.lora import adapter_of
from evolvedirector.experts.network_experts import NetworkExperts
from evolvedirector.lightning_modules.adapter_checkpoint import check_adapters, saved_form
from evolvedirector.lightning_modules.assemble import Where, assemble
from evolvedirector.lightning_modules.compute import Compute
from evolvedirector.records.condition import Extras, Size
from tests.lightning_modules.tiny_student import SIDE, family

NAMES = ("dark", "light")


def experts(**settings: Any) -> NetworkExperts:
    trained = Trained(LoRA(2), experts=NAMES, **settings)
    network, digest = assemble(family(), 0, trained, Compute(), Where())
    return NetworkExperts(network, trained, "toy", digest)


def awake(found: NetworkExperts) -> NetworkExperts:
    torch.manual_seed(0)
    with torch.no_grad():
        for name in NAMES:
            for part in found.parameters_of(name).values():
                part.add_(torch.randn_like(part) * 0.2)
    return found


def answer(found: NetworkExperts) -> torch.Tensor:
    kind, size = family(), Size(SIDE, SIDE)
    condition = kind.condition(kind.encode_text(["a"]), [size], Extras({}, None))
    noisy = torch.linspace(-1, 1, 3 * SIDE * SIDE).view(1, 3, SIDE, SIDE)
    return kind.predict(found.network, noisy, torch.tensor([500.0]), condition)


def gradients(found: NetworkExperts) -> set[str | None]:
    found.network.zero_grad()
    answer(found).square().mean().backward()
    return {
        adapter_of(name) or "gate"
        for name, part in found.network.named_parameters()
        if part.grad is not None and part.grad.abs().sum() > 0
    }


def test_experts_begin_alike_and_all_are_trained() -> None:
    found = experts()
    dark, light = (list(found.parameters_of(name).values()) for name in NAMES)
    assert len(dark) == 16 * 2 and all(torch.equal(one, two) for one, two in zip(dark, light, strict=True))
    assert {adapter_of(name) for name, part in found.network.named_parameters() if part.requires_grad} == set(NAMES)


def test_only_what_works_gets_gradients_and_all_stay_trained() -> None:
    found = awake(experts(gate=GatedLoRA("token")))
    trained = {name for name, part in found.network.named_parameters() if part.requires_grad}
    for activate, expected in (
        (lambda: found.activate({"light": 1.0}), {"light"}),
        (lambda: found.activate({"dark": 0.5, "light": 0.5}), {"dark", "light"}),
        (found.activate_gate, {"gate"}),
        (lambda: found.activate({"dark": 1.0}), {"dark"}),
    ):
        activate()
        assert gradients(found) == expected
        assert {name for name, part in found.network.named_parameters() if part.requires_grad} == trained


@torch.no_grad()
def test_several_work_as_their_product_mean_and_none_as_the_base() -> None:
    found = awake(experts(gate=GatedLoRA("token")))
    found.activate({})
    base = answer(found)
    layer = "transformer_blocks.0.attn1.to_q"
    part: Any = found.network.get_submodule(layer)
    x = torch.linspace(-1, 1, 64).view(2, 32)
    updates = [found.expert(name, {}).update(layer) for name in NAMES]
    found.activate(dict.fromkeys(NAMES, 0.5))
    torch.testing.assert_close(part(x), part.base_layer(x) + x @ (sum(updates) / 2).T)
    mean = answer(found)
    found.activate_gate()
    torch.testing.assert_close(answer(found), mean, atol=1e-5, rtol=1e-5)  # untrained, it is the uniform merge
    assert found.gate_works
    found.activate({"dark": 1.0})
    torch.testing.assert_close(part(x), part.base_layer(x) + x @ updates[0].T)
    found.activate({})
    assert torch.equal(answer(found), base) and not found.gate_works and (mean - base).abs().max() > 1e-3


def test_one_lora_without_a_name_is_as_before() -> None:
    assert list(Trained(LoRA(2)).adapters) == ["default"] and not Trained().adapters


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"experts": "dark"}, "Write experts: [counting, colour]"),
        ({"experts": ["dark", "dark"]}, "each once"),
        ({"experts": ["a.b"]}, "An expert is called 'a.b'"),
        ({"experts": ["train"]}, "no word of torch's modules"),
        ({"experts": ["dark"], "lora": None}, "(lora is null). Experts are LoRAs"),
        ({"experts": ["dark"], "lora": LoRA(2, dora=True)}, "Write dora: false"),
        ({"experts": ["dark"], "gate": GatedLoRA()}, "A gate mixes two or more"),
        ({"experts": NAMES, "gate": GatedLoRA(), "gated": ["dark", "blue"]}, "gated ['dark', 'blue']"),
        ({"experts": NAMES, "gated": NAMES}, "gate is null"),
    ],
)
def test_experts_that_cannot_be_are_told(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        Trained(**({"lora": LoRA(2)} | settings))
    assert line in str(refused.value)


def test_an_expert_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"There is no expert 'blue'\. Allowed: dark, light"):
        experts().activate({"blue": 1.0})


def test_a_checkpoint_of_other_experts_or_another_gate_is_refused() -> None:
    def form(**settings: Any) -> dict[str, Any]:
        found = saved_form(Trained(LoRA(2), **({"experts": NAMES} | settings)), ["to_q"], "base", "digest")
        assert found is not None
        return found

    check_adapters(form(gate=GatedLoRA()), form(gate=GatedLoRA()), trains=True)
    with pytest.raises(UserError, match=r"Write model\.init_args\.trained: .*experts: \[dark, light\]"):
        check_adapters(form(experts=()), form(), trains=True)
    with pytest.raises(UserError, match=r"The gate of this run is none, that of the checkpoint \{'kind': 'pooled'"):
        check_adapters(form(), form(gate=GatedLoRA()), trains=False)
