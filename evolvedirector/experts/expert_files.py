"""Files of experts: safetensors whose header says of what base, rank and making they are.

Our own layout names tensors as the network does (`<layer>.lora_A.weight`, `<layer>.lora_B.weight`) and keeps alpha in
the header. A file of anybody's in the layout of diffusers, or of peft, is read as well; those of other programs through
the names of the network's family, which the caller gives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.experts.expert import Expert
from evolvedirector.experts.lora import LoRA
from evolvedirector.store.durable import write_durably

RECORD = "evolvedirector.expert"
"""Key of the header under which the record of an expert lies, as JSON."""
OURS = "ours"
"""Our own layout; others are named as the families name them: diffusers, comfyui, kohya."""
_DOWN, _UP, _ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
_OF_DIFFUSERS = "lora_adapter_metadata"
_OF_PEFT, _PEFT_CONFIG = "base_model.model.", "adapter_config.json"
_NETWORKS = ("transformer.", "unet.")
_MAX_FILE_BYTES, _MAX_JSON_BYTES = 16 * 2**30, 16 * 2**20
_HINT = 'Load it in diffusers and save it anew, or train it again with "evolvedirector fit".'


class Pair(NamedTuple):
    """What a file says of one layer: A, B and alpha."""

    down: Tensor
    up: Tensor
    alpha: float


FromLayout: TypeAlias = Callable[[Mapping[str, Tensor]], Mapping[str, Pair]]
"""Tensors under the names of another program -> pairs by the layer of the network."""


def write_expert(expert: Expert, path: Path) -> None:
    """Write an expert in our own layout, and what its header says once more as a JSON file beside it.

    Args:
        expert: What is written.
        path: Ends in .safetensors; an older file is replaced in one step.
    """
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in expert.factors.items():
        tensors |= {layer + _DOWN: down, layer + _UP: up}
    write_named(expert, tensors, OURS, path)


def write_named(expert: Expert, tensors: Mapping[str, Tensor], layout: str, path: Path) -> None:
    """Write an expert under the names of another program, with our header, and that as a JSON file beside it.

    Args:
        expert: What is written.
        tensors: Of the expert, under the names of the layout.
        layout: Whose names they are.
        path: Ends in .safetensors; an older file is replaced in one step.
    """
    alpha = expert.lora.scale * expert.lora.rank
    targets = None if expert.lora.targets is None else list(expert.lora.targets)
    record = {
        "version": 1,
        "name": expert.name,
        "base": expert.base,
        "base_digest": expert.base_digest,
        "layout": layout,
        "lora": {"rank": expert.lora.rank, "alpha": alpha, "targets": targets, "seed": expert.lora.seed},
        "provenance": dict(expert.provenance),
    }
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_durably(path, save(content, metadata={"format": "pt", RECORD: json.dumps(record)}))
    write_durably(path.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())


def read_expert(path: Path, base: str = "", from_layout: FromLayout | None = None) -> Expert:
    """Read an expert; no file is ever unpickled.

    Args:
        path: A safetensors file: ours, of diffusers or of peft.
        base: What its base is called, for a file that does not say.
        from_layout: Reads the names of other programs. None: a file with such names is refused.

    Raises:
        UserError: It is no such file, or a LoRA that is no plain product of two matrices.
    """
    metadata, tensors = safetensors_content(path)
    record = _record(path, metadata)
    _refuse_kinds(path, tensors)
    if record.get("layout") == OURS:
        pairs = _plain_pairs(path, tensors, "", lambda _: float(record["lora"]["alpha"]))
    elif prefix := _prefix(path, tensors):
        pairs = _plain_pairs(path, tensors, prefix, _alphas(path, metadata, prefix))
    elif from_layout is not None:
        pairs = dict(from_layout(tensors))
    else:
        shown = next(iter(tensors), "no tensor")
        raise UserError(
            f"{path} holds {shown}, which is a name of another program, or none of a LoRA. Such a file is read by the "
            f"names of its network. Write --base NAME, the pipeline that it was trained for. {_HINT}"
        )
    lora, factors = _alike(pairs, record.get("lora", {}))
    file = {"name": path.name, "sha256": _sha256(path), "seed_known": bool(record)}
    return Expert(
        record.get("name", path.stem),
        lora,
        factors,
        record.get("base", "") or base,
        record.get("base_digest", ""),
        {**record.get("provenance", {}), "file": file},
    )


def safetensors_content(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return header and tensors of a file, once it is sure that nothing in it is run or too large.

    Args:
        path: Of a safetensors file.

    Raises:
        UserError: It is none, damaged or too large.
    """
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path} is no .safetensors file. Allowed are those alone: others may run code when they are read. Convert "
            "it where you trust its origin, then name the new file."
        )
    if not path.is_file():
        raise UserError(f"There is no file {path}. Allowed is the file of an expert. Correct the path.")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size} bytes. Allowed are {_MAX_FILE_BYTES}: a LoRA has less than its network. "
            "Give the file of the LoRA alone."
        )
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise UserError(
            f"{path} is damaged, or no safetensors file ({error}). Allowed is a whole one. Copy or download it again."
        ) from error


def _record(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what our header says; nothing where there is none."""
    if RECORD not in metadata:
        return {}
    found = json_object(path, metadata[RECORD])
    lora, provenance = found.get("lora"), found.get("provenance")
    words = [found.get(key) for key in ("name", "base", "base_digest", "layout")]
    if not (all(isinstance(word, str) for word in words) and _is_lora(lora) and isinstance(provenance, dict)):
        raise UserError(
            f"The header of {path} says {str(found)[:80]} of its expert. Allowed is what `evolvedirector` wrote: name, "
            "base, base_digest, layout, lora and provenance. Write the file anew."
        )
    return found


def _is_lora(found: Any) -> bool:
    """Say whether a value has the numbers of a `LoRA` that a file states beside its tensors."""
    if not isinstance(found, dict) or not isinstance(found.get("alpha"), int | float):
        return False
    targets = found.get("targets")
    named = targets is None or (isinstance(targets, list) and all(isinstance(target, str) for target in targets))
    return named and isinstance(found.get("seed"), int)


def json_object(path: Path, text: str) -> dict[str, Any]:
    """Return an object out of JSON that came from outside.

    Args:
        path: Whose text it is, for the error.
        text: JSON.

    Raises:
        UserError: It is too long, damaged or no object.
    """
    try:
        if len(text) > _MAX_JSON_BYTES:
            raise ValueError(f"it has {len(text)} characters, over {_MAX_JSON_BYTES}")
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"What {path} says of its LoRA cannot be read: {error}. Allowed is a JSON object. Write the file anew."
        ) from error
    return found


def _refuse_kinds(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse adapters that are no product of two matrices, or are beside other parts of a pipeline."""
    kinds = {
        "lora_magnitude_vector": "a DoRA",
        "dora_scale": "a DoRA",
        "hada_": "a LoHa",
        "lokr_": "a LoKr",
        "lora_B.bias": "a LoRA with a bias",
        "lora_embedding_": "a LoRA of an embedding",
        "text_encoder": "a LoRA of a text encoder",
        "lora_te": "a LoRA of a text encoder",
    }
    for name, tensor in tensors.items():
        kind = next((kind for part, kind in kinds.items() if part in name), None)
        if kind is None and name.endswith(_ALPHA):  # of some scripts a whole number
            kind = None if tensor.numel() == 1 else f"an alpha of {tensor.numel()} numbers"
        elif kind is None and not tensor.is_floating_point():
            kind = f"a tensor of {tensor.dtype}"
        if kind is not None:
            raise UserError(
                f"{path} holds {kind} ({name}). Allowed are plain LoRAs of the network alone: y = W x + s B A x. Train "
                "it so, or leave the file out."
            )


def _prefix(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Return what stands before every layer in files of diffusers and peft; empty where they are of another program."""
    of_lora = [name for name in tensors if name.endswith((_DOWN, _UP))]
    for prefix in (_OF_PEFT, *_NETWORKS):
        if of_lora and all(name.startswith(prefix) for name in tensors):
            return prefix
    return ""


def _alphas(path: Path, metadata: Mapping[str, str], prefix: str) -> Callable[[str], float | None]:
    """Return alpha by layer as diffusers and peft say it; None where nobody does, and the scale is 1."""
    if prefix == _OF_PEFT:
        beside = path.with_name(_PEFT_CONFIG)
        if not beside.is_file() or beside.stat().st_size > _MAX_JSON_BYTES:
            raise UserError(
                f"{path} has the names of peft, and there is no {_PEFT_CONFIG} beside it that says alpha. Allowed is "
                "the whole folder, as peft saves it. Copy that file, too."
            )
        config = json_object(beside, beside.read_text(encoding="utf-8", errors="replace"))
    else:
        found = json_object(path, metadata.get(_OF_DIFFUSERS, "{}"))
        config = {key.removeprefix(prefix): value for key, value in found.items()}
    for setting in ("use_rslora", "use_dora", "lora_bias"):
        if config.get(setting):
            raise UserError(
                f"{path} says {setting}: true. Allowed are plain LoRAs, whose scale is alpha / rank. Train it without "
                f"{setting}."
            )
    patterns, alpha = config.get("alpha_pattern") or {}, config.get("lora_alpha")
    if not isinstance(patterns, dict) or not all(
        isinstance(each, int | float) for each in (alpha or 1, *patterns.values())
    ):
        raise UserError(
            f"{path} says lora_alpha: {alpha!r} and alpha_pattern: {str(patterns)[:80]}. Allowed are numbers. {_HINT}"
        )

    def of(layer: str) -> float | None:
        from peft.utils.other import get_pattern_key

        found = patterns.get(get_pattern_key(list(patterns), layer), alpha)
        return None if found is None else float(found)

    return of


def _plain_pairs(
    path: Path, tensors: Mapping[str, Tensor], prefix: str, alpha_of: Callable[[str], float | None]
) -> dict[str, Pair]:
    """Pair the factors of each layer; an alpha beside them counts more than that of the header."""
    pairs: dict[str, Pair] = {}
    left = set(tensors)
    for name in [name for name in tensors if name.endswith(_DOWN)]:
        stem = name.removesuffix(_DOWN)
        layer, up, beside = stem.removeprefix(prefix), stem + _UP, stem + _ALPHA
        down = tensors[name]
        if up not in tensors or down.dim() < 2 or tensors[up].dim() != down.dim():
            break
        alpha = float(tensors[beside]) if beside in tensors else alpha_of(layer)
        pairs[layer] = Pair(down, tensors[up], float(len(down)) if alpha is None else alpha)
        left -= {name, up, beside}
    if left or not pairs:
        shown = min(left, default="no tensor")
        raise UserError(
            f"{path} holds {shown}, which belongs to no pair of matrices. Allowed are pairs <layer>{_DOWN} and "
            f"<layer>{_UP}. {_HINT}"
        )
    return pairs


def _alike(pairs: Mapping[str, Pair], said: Mapping[str, Any]) -> tuple[LoRA, dict[str, tuple[Tensor, Tensor]]]:
    """Bring all layers to one rank and one scale, by zeros and by factors of B: the updates stay as they are."""
    rank = max(len(pair.down) for pair in pairs.values())
    scales = {layer: pair.alpha / max(1, len(pair.down)) for layer, pair in pairs.items()}
    scale = scales[next(iter(scales))] if len(set(scales.values())) == 1 else 1.0
    factors = {}
    for layer, pair in pairs.items():
        down, up = pair.down.float(), pair.up.float() * (scales[layer] / scale)
        missing = rank - len(down)
        if missing:
            down = torch.cat([down, down.new_zeros(missing, *down.shape[1:])])
            up = torch.cat([up, up.new_zeros(len(up), missing, *up.shape[2:])], dim=1)
        factors[layer] = down, up
    return LoRA(rank, scale * rank, said.get("targets"), seed=said.get("seed", 0)), factors


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
