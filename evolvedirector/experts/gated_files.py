"""Files of gated experts: experts and gates in one safetensors file, whose header says of what base and kind they are.

Tensors are named as in the network: `<layer>.lora_A.<expert>.weight`, `<layer>.lora_B.<expert>.weight`,
`<layer>.gate_router.weight`, and of a pooled gate `<layer>.gate_router.log_temperature`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.expert_files import json_object, safetensors_content
from evolvedirector.experts.gate import GatedLoRA
from evolvedirector.experts.gated_experts import GatedExperts
from evolvedirector.experts.lora import GATE, LoRA
from evolvedirector.records.plain_settings import Settings, settings_of
from evolvedirector.store.durable import write_durably

RECORD = "evolvedirector.gated_experts"
"""Key of the header under which the record lies, as JSON."""


def write_gated(gated: GatedExperts, path: Path) -> None:
    """Write experts with their gates, and what the header says once more as a JSON file beside it.

    Args:
        gated: What is written.
        path: Ends in .safetensors; an older file is replaced in one step.

    Raises:
        UserError: The path ends otherwise, or a name holds a dot, which parts the names of tensors.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path} is no name for gated experts. Allowed is one that ends in .safetensors. Write one.")
    tensors: dict[str, Tensor] = {}
    for expert in gated.experts:
        if not expert.name or "." in expert.name:
            raise UserError(
                f"An expert is called {expert.name!r}. Allowed in a gate are names without a dot. Rename it."
            )
        for layer, (down, up) in expert.factors.items():
            tensors[f"{layer}.lora_A.{expert.name}.weight"] = down.contiguous()
            tensors[f"{layer}.lora_B.{expert.name}.weight"] = up.contiguous()
    for layer, parts in gated.gates.items():
        tensors |= {f"{layer}.{GATE}.{name}": part.contiguous() for name, part in parts.items()}
    record = {
        "version": 1,
        "base": gated.base,
        "base_digest": gated.base_digest,
        "gate": asdict(gated.settings),
        "experts": [_described(expert) for expert in gated.experts],
    }
    write_durably(path, save(tensors, metadata={"format": "pt", RECORD: json.dumps(record)}))
    write_durably(path.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())


def read_gated(path: Path) -> GatedExperts:
    """Read experts with their gates; no file is ever unpickled.

    Args:
        path: As `write_gated` wrote it.

    Raises:
        UserError: It is no such file, or what it holds does not fit together.
    """
    metadata, tensors = safetensors_content(path)
    record = _record(path, metadata)
    left = dict(tensors)
    experts = tuple(_expert(path, said, record, left) for said in record["experts"])
    gates: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in left if f".{GATE}." in name]:
        layer, _, parameter = name.partition(f".{GATE}.")
        gates.setdefault(layer, {})[parameter] = left.pop(name).float()
    if left:
        raise UserError(
            f"{path} holds {min(left)}, which belongs to no expert that its header names and to no gate. Allowed is "
            "what write_gated wrote. Write the file anew."
        )
    return GatedExperts(_settings(GatedLoRA, record["gate"], "gate", path), experts, gates)


def _described(expert: Expert) -> dict[str, Any]:
    lora = asdict(expert.lora) | {"alpha": expert.lora.scale * expert.lora.rank}
    targets = None if expert.lora.targets is None else list(expert.lora.targets)
    return {"name": expert.name, "lora": lora | {"targets": targets}, "provenance": dict(expert.provenance)}


def _record(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if RECORD not in metadata:
        raise UserError(
            f"{path} holds no gated experts: its header has no {RECORD}. Allowed is what write_gated wrote; a plain "
            "LoRA is read by read_expert, or by load_lora_weights of diffusers. Name the other file."
        )
    found = json_object(path, metadata[RECORD])
    experts = found.get("experts")
    fits = isinstance(experts, list) and all(
        isinstance(said, dict)
        and isinstance(said.get("name"), str)
        and isinstance(said.get("lora"), dict)
        and isinstance(said.get("provenance"), dict)
        for said in experts
    )
    words = [found.get(key) for key in ("base", "base_digest")]
    if not fits or not isinstance(found.get("gate"), dict) or not all(isinstance(word, str) for word in words):
        raise UserError(
            f"The header of {path} says {str(found)[:80]} of its gated experts. Allowed is what write_gated wrote: "
            "base, base_digest, gate and experts. Write the file anew."
        )
    return found


def _expert(path: Path, said: Mapping[str, Any], record: Mapping[str, Any], left: dict[str, Tensor]) -> Expert:
    """Take the tensors of an expert out of those that are left."""
    name, factors = said["name"], {}
    down_end, up_end = (f".{part}.{name}.weight" for part in ("lora_A", "lora_B"))
    for tensor in [tensor for tensor in left if tensor.endswith(down_end)]:
        layer = tensor.removesuffix(down_end)
        if layer + up_end not in left:
            raise UserError(
                f"{path} holds {tensor} and no {layer + up_end}. Allowed are pairs of them. Write the file anew."
            )
        factors[layer] = left.pop(tensor).float(), left.pop(layer + up_end).float()
    lora = _settings(LoRA, said["lora"], f"lora of {name}", path)
    return Expert(name, lora, factors, record["base"], record["base_digest"], said["provenance"])


def _settings(kind: type[Settings], value: Any, what: str, path: Path) -> Settings:
    try:
        return settings_of(kind, value, f"{what} in the header of {path}")
    except TypeError as error:
        raise UserError(
            f"{what} in the header of {path} is {value}, of which one has a wrong type ({error}). Allowed is what "
            "write_gated wrote. Write the file anew."
        ) from error
