"""Gated experts as a record and as a file: what comes back is what was put in, and nothing else is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evolvedirector.errors import UserError
from evolvedirector.experts import Expert, LoRA, expert_of, put_expert
from evolvedirector.experts.gate import GatedLoRA, gates_of
from evolvedirector.experts.gated_experts import GatedExperts, constant_gate_as_expert, gated_of, put_gated
from evolvedirector.experts.gated_files import RECORD, read_gated, write_gated
from tests.experts.gated_toys import KINDS, NAMES, answer, bare, gated
from tests.experts.toy_experts import expert


def record(kind: Any = "pooled", **settings: Any) -> GatedExperts:
    network = gated(kind, awake=True, **settings)
    experts = [
        expert_of(network, name, LoRA(rank, alpha=rank + 1.0, seed=7), "tiny/base", "d1", {"steps": rank})
        for name, rank in zip(NAMES, (2, 4, 3), strict=True)
    ]
    return gated_of(network, experts)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_computes_the_same(kind: str, tmp_path: Path) -> None:
    write_gated(record(kind, temperature=2.0, balance_weight=0.25), tmp_path / "mixture.safetensors")
    read = read_gated(tmp_path / "mixture.safetensors")
    assert read.settings == GatedLoRA(kind, 2.0, 0.25) and [one.name for one in read.experts] == list(NAMES)  # type: ignore[arg-type]
    assert [one.provenance for one in read.experts] == [{"steps": rank} for rank in (2, 4, 3)]
    assert (read.base, read.base_digest, read.experts[1].lora.seed) == ("tiny/base", "d1", 7)
    network = bare()
    put_gated(network, read)
    with torch.no_grad():
        assert torch.equal(answer(network), answer(gated(kind, awake=True, temperature=2.0)))
    names = load_file(tmp_path / "mixture.safetensors").keys()
    assert names < network.state_dict().keys()
    assert json.loads((tmp_path / "mixture.json").read_text())["gate"]["kind"] == kind


def test_constant_gates_are_one_expert() -> None:
    made = record("constant", temperature=0.7)
    fused = constant_gate_as_expert(made, "mixture")
    assert fused.lora.rank == 9 and fused.base_digest == "d1"
    rows = fused.provenance["gate"]["weights"]
    assert rows.keys() == fused.factors.keys() and all(sum(row) == pytest.approx(1) for row in rows.values())
    network = bare()
    put_expert(network, "mixture", fused)
    with torch.no_grad():
        kept = answer(gated("constant", awake=True, temperature=0.7))
        torch.testing.assert_close(answer(network), kept, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"no one LoRA does.*Allowed is kind: constant"):
        constant_gate_as_expert(record("token"), "mixture")


def test_experts_come_in_any_order_and_others_are_refused() -> None:
    network = gated("token", awake=True)
    experts = {name: expert_of(network, name, LoRA(2, 3.0), "b", "d") for name in ("count",)}
    with pytest.raises(UserError, match="weigh count, colour, place, and the experts are count"):
        gated_of(network, list(experts.values()))
    with pytest.raises(UserError, match="there are none"):
        gated_of(bare(), list(experts.values()))
    made = record("token")
    again = gated_of(network, made.experts[::-1])
    assert [one.name for one in again.experts] == list(NAMES)
    assert all(torch.equal(again.gates[layer]["weight"], gate.weight) for layer, gate in gates_of(network).items())


def toys(**changes: Any) -> dict[str, Any]:
    """Two experts of the toy network without its convolution, and constant gates."""
    both = [expert(name) for name in ("a", "b")]
    linear = [
        Expert(one.name, one.lora, {k: v for k, v in one.factors.items() if k != "conv"}, "org/base", "d1")
        for one in both
    ]
    gates = {layer: {"weight": torch.zeros(2)} for layer in linear[0].factors}
    return {"settings": GatedLoRA("constant"), "experts": tuple(linear), "gates": gates} | changes


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"settings": GatedLoRA("token")}, "The token gate at .* has .*Allowed for 2 experts is {'weight': \\(2, 5\\)"),
        ({"gates": {"blocks.0.to_q": {"weight": torch.zeros(2)}}}, "one alone has blocks.1.to_q"),
        ({"experts": (expert("a"), expert("b", base_digest="d2"))}, "Experts of other bases"),
        ({"experts": (expert("a"), expert("a"))}, "Two experts are called 'a'"),
    ],
)
def test_what_does_not_fit_together_is_refused(changed: dict[str, Any], said: str) -> None:
    GatedExperts(**toys())
    with pytest.raises(UserError, match=said):
        GatedExperts(**toys(**changed))


def test_a_number_that_is_not_finite_is_refused() -> None:
    gates = toys()["gates"]
    gates["blocks.0.to_q"]["weight"][0] = float("nan")
    with pytest.raises(UserError, match="a number in it is not finite"):
        GatedExperts(**toys(gates=gates))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda tensors, said: said.clear(), "says {} of its gated experts"),
        (lambda tensors, said: said["gate"].update(kind="top"), "kind of a gate is 'top'"),
        (lambda tensors, said: said["gate"].update(temperature="hot"), "of which one has a wrong type"),
        (lambda tensors, said: said["gate"].update(experts=3), "has no setting 'experts'"),
        (lambda tensors, said: said["experts"].pop(), "lora_A.b.weight, which belongs to no expert"),
        (lambda tensors, said: said["experts"][0]["lora"].update(rank=3), "its rank is 3"),
        (lambda tensors, said: tensors.update(more=torch.zeros(1)), "holds more, which belongs to no expert"),
        (lambda tensors, said: tensors.pop("blocks.0.to_q.lora_B.a.weight"), "and no blocks.0.to_q.lora_B.a.weight"),
        (lambda tensors, said: tensors.pop("blocks.0.to_q.gate_router.weight"), "one alone has blocks.0.to_q"),
        (lambda tensors, said: tensors.update({"blocks.0.to_q.gate_router.weight": torch.zeros(9)}), "has .*9"),
    ],
)
def test_a_file_that_was_changed_is_refused(spoil: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mixture.safetensors"
    write_gated(GatedExperts(**toys()), path)
    tensors, header = load_file(path), json.loads(path.with_suffix(".json").read_text())
    spoil(tensors, header)
    save_file(tensors, path, metadata={RECORD: json.dumps(header)})
    with pytest.raises(UserError, match=said):
        read_gated(path)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match=r"holds no gated experts.*load_lora_weights"):
        read_gated(tmp_path / "plain.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "plain.safetensors").read_bytes()[:20])
    with pytest.raises(UserError, match="damaged"):
        read_gated(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        read_gated(tmp_path / "mixture.pt")
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        write_gated(GatedExperts(**toys()), tmp_path / "mixture.pt")
