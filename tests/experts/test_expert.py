"""An expert goes out of a network and into it as it is; what does not fit is refused before anything changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evolvedirector.errors import UserError
from evolvedirector.experts import Expert, LoRA, expert_of, fold_expert, put_expert
from evolvedirector.experts.lora import inject
from tests.experts.toy_experts import expert, update

TARGETS = ["to_q", "conv"]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(5, width)


class Network(nn.Module):
    """The layers of the toy experts."""

    def __init__(self, wide: int = 6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(7), Block(wide)])
        self.conv = nn.Conv2d(3, 4, 2)

    def forward(self, tokens: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([*(block.to_q(tokens).flatten() for block in self.blocks), self.conv(image).flatten()])


INPUTS = torch.arange(10.0).reshape(2, 5) / 10, torch.arange(48.0).reshape(1, 3, 4, 4) / 48


def test_an_expert_goes_in_comes_out_and_is_folded_in() -> None:
    network, one, two = Network(), expert("one", 2, 4.0), expert("two", 3)
    plain = network(*INPUTS)
    put_expert(network, "first", one)
    with_one = network(*INPUTS)
    put_expert(network, "second", two)
    put_expert(network, "second", two)  # is there now, and is filled
    assert not torch.allclose(with_one, plain) and not torch.allclose(network(*INPUTS), with_one)
    found = expert_of(network, "second", two.lora, "org/base", "d1", {"steps": 3})
    assert (found.name, found.base, found.base_digest, found.provenance) == ("second", "org/base", "d1", {"steps": 3})
    assert found.tensors_sha256 == two.tensors_sha256 != one.tensors_sha256
    found.factors["conv"][0].zero_()
    assert expert_of(network, "second", two.lora, "", "").factors["conv"][0].any(), "what comes out are copies"
    torch.manual_seed(0)
    folded = Network()
    folded.load_state_dict({name.replace(".base_layer", ""): value for name, value in network.state_dict().items()
                            if "lora_" not in name})  # fmt: skip
    fold_expert(folded, one)
    torch.testing.assert_close(folded(*INPUTS), with_one)


def test_the_update_of_a_layer_is_scale_b_a() -> None:
    one = expert("one", 2, 1.0)
    down, up = one.factors["conv"]
    torch.testing.assert_close(one.update("conv"), 0.5 * up[:, :, 0, 0] @ down.reshape(2, -1))
    assert len(update(one)) == 7 * 5 + 6 * 5 + 4 * 12


def test_what_is_no_expert_is_refused() -> None:
    one = expert("one")
    down, up = one.factors["conv"]
    for match, lora, factors in (
        ("changes no layer", LoRA(2), {}),
        ("is a DoRA", LoRA(2, dora=True), one.factors),
        ("its rank is 3", LoRA(3), one.factors),
        (r"at conv factors of \(2, 3, 2, 2\) and \(4, 2\)", LoRA(2), {"conv": (down, up[:, :, 0, 0])}),
        ("at conv factors", LoRA(2), {"conv": (down, up.expand(4, 2, 2, 2))}),
        ("NaN or an infinity at conv", LoRA(2), {"conv": (down, up * float("nan"))}),
        ("NaN or an infinity at conv", LoRA(2), {"conv": (down / 0, up)}),
    ):
        with pytest.raises(UserError, match=match):
            Expert("one", lora, factors, "", "")


def test_what_fits_no_network_is_refused_before_it_changes() -> None:
    network, one = Network(wide=8), expert("one")
    before = list(network.state_dict())
    for into in (lambda: put_expert(network, "a", one), lambda: fold_expert(network, one)):
        with pytest.raises(UserError, match=r"blocks.1.to_q, with weights of \(6, 5\), but Network has \(8, 5\)"):
            into()
    with pytest.raises(UserError, match="has no such layer"):
        put_expert(Network(), "a", expert("two", factors={"proj": one.factors["conv"]}))
    assert list(network.state_dict()) == before


def test_an_adapter_of_another_kind_is_refused() -> None:
    network, one = Network(), expert("one", 2, 4.0)
    inject(network, {"a": LoRA(2, 1.0), "b": LoRA(3), "c": LoRA(2, 4.0, ["conv"])}, "a", TARGETS)
    for adapter in ("a", "b"):
        with pytest.raises(UserError, match="Both must be alike"):
            put_expert(network, adapter, one)
    with pytest.raises(UserError, match=r"not beside the same layers: one alone has blocks\.0\.to_q \(2 of them\)"):
        put_expert(network, "c", one)
    with pytest.raises(UserError, match=r"has no adapter 'd'\. Allowed: a, b, c"):
        expert_of(network, "d", one.lora, "", "")
