"""What a diffusers pipeline holds on disk: its parts, its name by content, its weight in bytes; nothing is loaded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from evolvedirector.errors import UserError
from evolvedirector.records import digest

DType = Literal["bfloat16", "float16", "float32"]
Quantisation = Literal["nf4", "int8"]
Offload = Literal["none", "model", "sequential"]

INDEX = "model_index.json"
_MAX_JSON_BYTES = 64 * 2**20
_WHOLE_BYTES, _BLOCK_BYTES, _BLOCKS = 2**20, 4096, 16
_DESCRIBING = {".json", ".txt", ".model", ".safetensors"}
_WEIGHT_FILE = re.compile(r"(?P<stem>\w+?)(\.(?P<variant>\w+?))?(?P<part>-\d{5}-of-\d{5})?\.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_BYTES_OF = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
# 4 bits and one float32 scale per block of 64 weights; 8 bits (the scale per row is negligible)
_BYTES_QUANTISED = {"nf4": 0.5 + 4 / 64, "int8": 1.0}
_KEPT_WHOLE = re.compile(r"embed|shared|norm|lm_head")


def read_index(folder: Path) -> dict[str, Any]:
    """Read `model_index.json`, the list of a pipeline's parts.

    Args:
        folder: The pipeline.

    Raises:
        UserError: The file is missing, no JSON object, or names a pipeline that brings its own code.
    """
    index = _read_json(folder / INDEX)
    if not isinstance(index.get("_class_name"), str):
        raise UserError(
            f"'{folder / INDEX}' names the pipeline class {index.get('_class_name')!r}. Allowed is the name of a class "
            "of diffusers: code that comes with a model is never run. Choose a model that diffusers knows."
        )
    return index


def component_names(index: Mapping[str, Any]) -> list[str]:
    """List the parts of a pipeline that are there: `transformer`, `vae`, `tokenizer` and so on."""
    pairs = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return [name for name, value in pairs.items() if not name.startswith("_") and value[1] is not None]


def quantisable(name: str) -> bool:
    """Tell whether a part is one whose linear layers are quantised: denoisers and text encoders, never the VAE."""
    return name.startswith(("transformer", "unet", "text_encoder", "prior"))


def weight_files(component: Path, variant: str | None = None) -> list[Path]:
    """List the safetensors files of one part that would be loaded.

    Args:
        component: Folder of the part.
        variant: Name of the wanted variant (`fp16`); a part that has none of it is read without.
    """
    found = [(path, match) for path in sorted(component.glob("*")) if (match := _WEIGHT_FILE.fullmatch(path.name))]
    wanted = [item for item in found if item[1]["variant"] == variant] or [i for i in found if not i[1]["variant"]]
    whole = [path for path, match in wanted if not match["part"]]
    return whole or [path for path, _ in wanted]


def check_weights(folder: Path, index: Mapping[str, Any], variant: str | None = None) -> None:
    """Refuse a folder in which the weights of a part are missing or only there as pickle.

    Raises:
        UserError: Names the part and says how to convert it.
    """
    for name in component_names(index):
        component = folder / name
        if not component.is_dir():
            raise UserError(
                f"The pipeline '{folder}' lacks its part '{name}', which {INDEX} names. Allowed is a whole folder, as "
                "`pipeline.save_pretrained(folder)` writes it. Download or copy it again."
            )
        # schedulers, tokenizers and image processors have no config.json and no weights
        if not (component / "config.json").is_file() or weight_files(component, variant):
            continue
        pickled = sorted(path.name for path in component.iterdir() if path.suffix in _PICKLED)
        found = f"only {pickled[0]}, a pickle, which may run code" if pickled else "no weights"
        raise UserError(
            f"The part '{name}' of '{folder}' has {found}. Allowed are safetensors files. Write them with "
            "`pipeline.save_pretrained(folder, safe_serialization=True)` where you trust the origin."
        )


def content_name(folder: Path) -> str:
    """Name a pipeline folder by what is in it: settings whole, weights by size, header and spread blocks.

    Two fine-tunes of one model have files of the same names and sizes, so sizes alone would mix their images up;
    reading all of 20 GB at every start would take minutes.
    """
    index = read_index(folder)
    parts: list[str | bytes | int] = [(folder / INDEX).read_bytes()]
    for name in sorted(component_names(index)):
        for path in sorted((folder / name).glob("*")):
            if path.suffix in _DESCRIBING and path.is_file():
                parts += [f"{name}/{path.name}", path.stat().st_size, *sampled_bytes(path)]
    return digest("pipeline", *parts)


def estimate_bytes(
    folder: Path,
    dtype: DType,
    quantisation: Quantisation | None = None,
    offload: Offload = "none",
    variant: str | None = None,
) -> int:
    """Say how much device memory a pipeline's weights take, from the headers of its files; activations come on top.

    Args:
        folder: The pipeline.
        dtype: Type that the weights are converted to.
        quantisation: How the linear layers of denoisers and text encoders are stored; None: in `dtype`.
        offload: `none`: all parts are there; `model`: one at a time; `sequential`: one layer at a time.
        variant: Variant of the files.

    Raises:
        ValueError: A file cannot be read.
    """
    totals, largest = [0.0], 0.0
    for name in component_names(read_index(folder)):
        total = 0.0
        for path in weight_files(folder / name, variant):
            for tensor, shape in _tensors(path):
                linear = len(shape) == 2 and tensor.endswith("weight") and not _KEPT_WHOLE.search(tensor.lower())
                small = quantisation is not None and linear and quantisable(name)
                each = _BYTES_QUANTISED[quantisation] if small and quantisation else _BYTES_OF[dtype]
                total += math.prod(shape) * each
                largest = max(largest, math.prod(shape) * each)
        totals.append(total)
    return math.ceil({"none": sum(totals), "model": max(totals), "sequential": largest}[offload])


def _tensors(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Read names and shapes from the header: 8 bytes of length (little endian), then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_JSON_BYTES:
            raise UserError(
                f"'{path}' is no safetensors file: its header has {length} bytes. Allowed are 2 to {_MAX_JSON_BYTES}. "
                "Download or copy it again."
            )
        header = file.read(length)
    try:
        for name, about in json.loads(header).items():
            if name != "__metadata__":
                yield name, [int(side) for side in about["shape"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"The header of '{path}' cannot be read ({error!r}). Allowed is a whole safetensors file. Download or copy "
            "it again."
        ) from error


def sampled_bytes(path: Path) -> Iterator[bytes]:
    """Yield a small file whole, of a large one blocks spread from its first to its last byte.

    Args:
        path: The file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            yield file.read()
            return
        for number in range(_BLOCKS):
            file.seek((size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
            yield file.read(_BLOCK_BYTES)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes, over {_MAX_JSON_BYTES}")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{path}' cannot be read: {error}. Allowed is a pipeline folder, which holds {INDEX} and a folder for "
            "each part. Write one made by `pipeline.save_pretrained(folder)`, or the name of a model of the hub."
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"'{path}' holds a JSON {type(value).__name__}. Allowed is a JSON object, as "
            "`pipeline.save_pretrained(folder)` writes it. Download or copy the pipeline again."
        )
    return value
