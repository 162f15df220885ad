"""Files of experts: ours and those of diffusers and peft are read as what they say; everything else is one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.experts.expert_files import RECORD, Pair, read_expert, write_expert
from evolvedirector.experts.merge import product_mean
from tests.experts.toy_experts import expert, update

DOWN, UP = torch.arange(6.0).reshape(2, 3) + 1, torch.arange(8.0).reshape(4, 2) - 3
PLAIN = UP @ DOWN


def saved(folder: Path, tensors: Mapping[str, Tensor], name: str = "lora.safetensors", **metadata: Any) -> Path:
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    save_file(dict(tensors), folder / name, {"format": "pt"} | said)
    return folder / name


def pair(layer: str, down: Tensor = DOWN, up: Tensor = UP) -> dict[str, Tensor]:
    return {f"{layer}.lora_A.weight": down.clone(), f"{layer}.lora_B.weight": up.clone()}


def test_an_expert_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = expert("one", 2, 6.0, provenance={"steps": 3, "skill": "été"})
    write_expert(one, tmp_path / "any name.safetensors")
    found = read_expert(tmp_path / "any name.safetensors", base="not asked for")
    assert (found.name, found.base, found.base_digest) == ("one", "org/base", "d1")
    assert found.tensors_sha256 == one.tensors_sha256 and found.lora.scale == 3.0
    assert found.provenance["steps"] == 3 and len(found.provenance["file"]["sha256"]) == 64
    beside = json.loads((tmp_path / "any name.json").read_text())
    assert beside["name"] == "one" and beside["provenance"] == {"steps": 3, "skill": "été"}
    assert not list(tmp_path.glob(".*"))
    merge = product_mean([found, expert("two")])
    write_expert(merge, tmp_path / "merge.safetensors")
    again = read_expert(tmp_path / "merge.safetensors")
    assert again.provenance["experts"][0]["provenance"]["file"] == found.provenance["file"]
    assert torch.equal(update(again), update(merge))


@pytest.mark.parametrize("place", ["transformer", "unet"])
def test_a_file_of_diffusers_is_an_expert(place: str, tmp_path: Path) -> None:
    """Without any word of alpha the scale is 1; with one it is alpha / rank, of each layer."""
    tensors = pair(f"{place}.a.to_q") | pair(f"{place}.b.to_q")
    found = read_expert(saved(tmp_path, tensors), base="org/base")
    assert (found.name, found.base, found.base_digest, found.lora.rank) == ("lora", "org/base", "", 2)
    assert torch.equal(found.update("a.to_q"), PLAIN)
    said = {f"{place}.r": 2, f"{place}.lora_alpha": 6, f"{place}.alpha_pattern": {"b.to_q": 1}}
    found = read_expert(saved(tmp_path, tensors, lora_adapter_metadata=said))
    assert torch.equal(found.update("a.to_q"), 3 * PLAIN) and torch.equal(found.update("b.to_q"), PLAIN / 2)
    found = read_expert(saved(tmp_path, tensors | {f"{place}.a.to_q.alpha": torch.tensor(8.0)}))
    whole = read_expert(saved(tmp_path, tensors | {f"{place}.a.to_q.alpha": torch.tensor(8)}))
    assert torch.equal(whole.update("a.to_q"), found.update("a.to_q"))
    assert torch.equal(found.update("a.to_q"), 4 * PLAIN) and torch.equal(found.update("b.to_q"), PLAIN)
    assert read_expert(saved(tmp_path, {key: part.bfloat16() for key, part in tensors.items()})).lora.rank == 2


def test_layers_of_several_ranks_are_one_expert(tmp_path: Path) -> None:
    tensors = pair("unet.a") | pair("unet.b", DOWN[:1], UP[:, :1])
    found = read_expert(saved(tmp_path, tensors))
    assert found.lora.rank == 2
    assert torch.equal(found.update("a"), PLAIN) and torch.equal(found.update("b"), UP[:, :1] @ DOWN[:1])


def test_a_folder_of_peft_is_an_expert(tmp_path: Path) -> None:
    import peft

    network = nn.ModuleDict({"to_q": nn.Linear(3, 4)})
    model = peft.get_peft_model(network, peft.LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"]))  # type: ignore[arg-type]
    with torch.no_grad():
        model.base_model.model.to_q.lora_B.default.weight.normal_()
    model.save_pretrained(str(tmp_path))
    found = read_expert(tmp_path / "adapter_model.safetensors")
    layer = model.base_model.model.to_q
    torch.testing.assert_close(found.update("to_q"), 3 * layer.lora_B.default.weight @ layer.lora_A.default.weight)
    (tmp_path / "adapter_config.json").write_bytes(b"\xff{")
    with pytest.raises(UserError, match="cannot be read"):
        read_expert(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"no adapter_config\.json beside it"):
        read_expert(tmp_path / "adapter_model.safetensors")


def test_names_of_other_programs_are_read_by_who_knows_them(tmp_path: Path) -> None:
    path = saved(tmp_path, {"lora_unet_a.lora_down.weight": DOWN, "lora_unet_a.lora_up.weight": UP})
    with pytest.raises(UserError, match=r"a name of another program.*--base"):
        read_expert(path)
    ends = (".lora_down.weight", ".lora_up.weight")

    def known(tensors: Mapping[str, Tensor]) -> dict[str, Pair]:
        return {"a": Pair(*(tensors[f"lora_unet_a{end}"] for end in ends), alpha=4.0)}

    found = read_expert(path, from_layout=known)
    assert torch.equal(found.update("a"), 2 * PLAIN)


DAMAGED: dict[str, tuple[str, dict[str, Tensor], dict[str, Any]]] = {
    "dora": ("a DoRA", {"unet.a.lora_magnitude_vector": DOWN}, {}),
    "loha": ("a LoHa", {"lora_unet_a.hada_w1_a": DOWN}, {}),
    "lokr": ("a LoKr", {"lora_unet_a.lokr_w1": DOWN}, {}),
    "bias": ("LoRA with a bias", {"unet.a.lora_B.bias": DOWN}, {}),
    "text encoder": ("LoRA of a text encoder", {"text_encoder.a.lora_A.weight": DOWN}, {}),
    "whole numbers": ("a tensor of torch.int64", {"unet.b.lora_A.weight": torch.ones(2, 2, dtype=torch.int64)}, {}),
    "half a pair": ("belongs to no pair", {"unet.b.lora_A.weight": DOWN}, {}),
    "further tensors": ("unet.proj.weight, which belongs to no pair", {"unet.proj.weight": DOWN}, {}),
    "not finite": ("NaN or an infinity at b", pair("unet.b", DOWN / 0), {}),
    "rslora": ("says use_rslora: true", {}, {"lora_adapter_metadata": {"unet.use_rslora": True}}),
    "dora said": ("says use_dora: true", {}, {"lora_adapter_metadata": {"unet.use_dora": True}}),
    "alpha": ("says lora_alpha: 'x'", {}, {"lora_adapter_metadata": {"unet.lora_alpha": "x"}}),
    "alpha without end": ("rank of a LoRA is 2 and alpha inf", {"unet.a.alpha": torch.tensor(torch.inf)}, {}),
    "alpha not a number": ("alpha nan", {"unet.a.alpha": torch.tensor(torch.nan)}, {}),
    "two alphas": ("an alpha of 2 numbers", {"unet.a.alpha": torch.ones(2)}, {}),
    "no JSON": ("cannot be read", {}, {"lora_adapter_metadata": "{"}),
    "a list": ("no JSON object", {}, {"lora_adapter_metadata": "[]"}),
    "our header cut": ("cannot be read", {}, {RECORD: "{"}),
    "our header empty": ("Allowed is what `evolvedirector` wrote", {}, {RECORD: "{}"}),
    "deep": ("cannot be read", {}, {RECORD: "[" * 100_000}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_no_plain_lora_is_one_sentence(name: str, tmp_path: Path) -> None:
    match, tensors, metadata = DAMAGED[name]
    with pytest.raises(UserError, match=match):
        read_expert(saved(tmp_path, pair("unet.a") | tensors, **metadata))


def test_our_header_must_be_whole(tmp_path: Path) -> None:
    write_expert(expert("one"), tmp_path / "one.safetensors")
    record = json.loads((tmp_path / "one.json").read_text())
    for key, value in (("name", 3), ("layout", None), ("lora", {"alpha": "x"}), ("provenance", [])):
        with pytest.raises(UserError, match="Write the file anew"):
            read_expert(saved(tmp_path, pair("a"), **{RECORD: record | {key: value}}))


def test_what_is_no_file_of_an_expert_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    torch.save({}, tmp_path / "lora.pt")
    with pytest.raises(UserError, match="others may run code"):
        read_expert(tmp_path / "lora.pt")
    with pytest.raises(UserError, match="There is no file"):
        read_expert(tmp_path / "none.safetensors")
    for name in ("cut", "empty"):
        with pytest.raises(UserError, match="is damaged"):
            read_expert(tmp_path / f"{name}.safetensors")
