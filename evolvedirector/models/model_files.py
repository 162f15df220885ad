"""What can be known of a model before its weights are loaded: where it lies, which one it is, how large it is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evolvedirector.errors import UserError
from evolvedirector.records import digest
from evolvedirector.store.paths import local_model, user_path

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantisation = Literal["nf4", "int8"]

_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_QUANTISED_BYTES = {"nf4": 0.5 + 4 / 64, "int8": 1.0}
"""Per weight: 4 bits and one fp32 scale for each block of 64, or 8 bits (a scale per row is nothing)."""
_MAX_HEADER_BYTES = 100 * 2**20
_WHOLE_BYTES = 64 * 2**20
_SAMPLES, _SAMPLE_BYTES = 64, 2**16
_SETTINGS = (".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model is used, and how its weights are held in memory.

    Attributes:
        model: Folder, or name on the model hub.
        revision: Branch, tag or commit on the hub; None is its main branch.
        dtype: Of weights and computation; auto: as saved.
        quantisation: nf4 (4 bit, QLoRA, Dettmers et al. 2023) or int8 (LLM.int8(), Dettmers et al. 2022) through
            bitsandbytes; None keeps the weights.
        device: As PyTorch names it. None: the GPU of the rank, or the CPU where there is none.
    """

    model: str
    revision: str | None = None
    dtype: Dtype = "auto"
    quantisation: Quantisation | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        model: Folder, or name on the model hub.
        folder: The folder, or the hub's local copy; None: not downloaded yet.
        commit: Commit on the hub; None for a folder.
        subfolder: Where in the model's place it lies: `text_encoder` of a pipeline. Empty: at the top. `folder` has it.
    """

    model: str
    folder: Path | None
    commit: str | None
    subfolder: str = ""

    @property
    def short_name(self) -> str:
        """The last part of the path or name: a machine's folders are nobody's business."""
        return self.model.rstrip("/").rsplit("/", 1)[-1]


def find_model(model: str, revision: str | None, subfolders: Sequence[str] = ("",)) -> ModelSource:
    """Find a model's folder or its name on the hub; local copies first, and a hub that is away is asked once.

    Args:
        model: Folder, or name on the model hub.
        revision: Branch, tag or commit on the hub; None is its main branch.
        subfolders: Where in there it may lie, the likeliest first; empty is the top.

    Raises:
        UserError: If there is no such folder, or neither hub nor local copy has the name.
    """
    folder = packaged_model(model) or local_model(model) or user_path(model)
    for subfolder in subfolders:
        if (folder / subfolder / "config.json").is_file():
            return ModelSource(model, folder / subfolder, None, subfolder)
    if folder.is_dir() or folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise UserError(
            f"The model folder {model!r} {'has no config.json' if folder.is_dir() else 'does not exist'}. Allowed is a "
            "folder written by save_pretrained, or a name on the model hub such as 'owner/model'. Correct the path."
        )
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        names = {subfolder: f"{subfolder}/config.json" if subfolder else "config.json" for subfolder in subfolders}
        for subfolder, name in names.items():
            found = try_to_load_from_cache(model, name, revision=revision)
            if isinstance(found, str):
                commit = Path(found).parents[name.count("/")].name
                return ModelSource(model, Path(found).parent, commit, subfolder)
        about = HfApi().model_info(model, revision=revision, timeout=10)
        there = {file.rfilename for file in about.siblings or ()}
        held = (subfolder for subfolder, name in names.items() if name in there)
        return ModelSource(model, None, about.sha, next(held, subfolders[0]))
    except Exception as error:  # a wrong name and a hub that is away have many exceptions of their own
        raise UserError(
            f"There is no folder {model!r} here, and no such model (revision {revision or 'main'}) on the hub or among "
            f"its local copies ({type(error).__name__}). Allowed is a folder written by save_pretrained, or a name "
            "that the hub shows. Correct the name, or download the model first."
        ) from error


def digest_of_model(source: ModelSource) -> str:
    """Name a model's weights and settings without loading them.

    A model of the hub is named by its commit. Of a folder, settings and tokenizer count whole, and of each weight file
    all of it or, over 64 MiB, its size and 64 samples spread over it: other weights differ nearly everywhere.

    Args:
        source: Where the model comes from.
    """
    if source.commit is not None or source.folder is None:
        return digest(source.model, source.commit or "")
    settings = [path for path in source.folder.iterdir() if path.suffix in _SETTINGS and path.is_file()]
    paths = sorted([*settings, *weight_files(source.folder)])
    parts: list[str | bytes] = []
    for path in paths:
        parts += [path.name, *_samples(path)]
    return digest(*parts)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that are loaded from a folder, by its index where it has one.

    Args:
        folder: With a saved model.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names)) if Path(name).name == name]
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else []


def has_weights(folder: Path) -> bool:
    """Say whether a folder has all its safetensors files.

    Args:
        folder: With a saved model.
    """
    files = weight_files(folder)
    return bool(files) and all(path.is_file() for path in files)


def weight_bytes(folder: Path, dtype: Dtype, quantisation: Quantisation | None) -> int | None:
    """Estimate the memory of a model's weights from the headers of its files; activations come on top.

    Args:
        folder: With a saved model.
        dtype: In which it is loaded.
        quantisation: How the matrices of its layers are packed; embeddings and the output layer stay as they are.

    Returns:
        Bytes, or None where the folder lacks safetensors files.
    """
    if not has_weights(folder):
        return None
    total = 0.0
    for name, stored, shape in (tensor for path in weight_files(folder) for tensor in _tensors(path)):
        values = math.prod(shape)
        packed = quantisation if len(shape) == 2 and "embed" not in name and "lm_head" not in name else None
        if packed is not None and name.endswith(".weight"):
            total += values * _QUANTISED_BYTES[packed]
        else:
            total += values * _DTYPE_BYTES.get(dtype, _BYTES.get(stored, 2))
    return int(total)


def _tensors(path: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Yield name, stored type and shape of each tensor, from the JSON header of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise UserError(
                f"{path.name} is no safetensors file: its header has {length} bytes. Allowed are at most "
                f"{_MAX_HEADER_BYTES}. Save or download the model again."
            )
        header: dict[str, Any] = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, entry["dtype"], entry["shape"]


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            yield file.read()
            return
        yield size.to_bytes(8, "little")
        for number in range(_SAMPLES):
            file.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


PREFIX = "package:"


def packaged_model(model: str) -> Path | None:
    """Return the folder of a model that is part of this package, so that a recipe needs no path of any machine.

    Args:
        model: `package:` and a folder inside of the package, such as "package:worlds/shapes/vlm"; or any other name.

    Returns:
        The folder; None for a name without `package:`.

    Raises:
        UserError: The package has no such model.
    """
    if not model.startswith(PREFIX):
        return None
    root = Path(__file__).resolve().parents[1]
    folder = (root / model.removeprefix(PREFIX)).resolve()
    if root not in folder.parents or not (folder / "config.json").is_file():
        raise UserError(
            f"There is no model {model!r} in this package. Allowed is 'package:' and a folder of it with a saved "
            "model. Write package:worlds/shapes/vlm."
        )
    return folder
