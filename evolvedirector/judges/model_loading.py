"""Models of the transformers library as judges and writers load them: safetensors only, never code of others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evolvedirector.records import digest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantisation = Literal["nf4", "int8"]

_SMALL_BYTES = 2**20
_SAMPLES = 64


def rank_device(device: str | None) -> torch.device:
    """Return the device of this rank, or the named one.

    Args:
        device: As PyTorch names it; None: the GPU that this process works on, or the CPU where there is none.
    """
    import torch

    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@contextmanager
def readable_loading(model: str) -> Iterator[None]:
    """Turn the many ways in which a model cannot be found or loaded into one sentence; show no progress bars.

    Args:
        model: Name or folder, for the sentence.

    Raises:
        ValueError: Instead of whatever the library raised.
    """
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, json.JSONDecodeError) as error:
        first_line = str(error).strip().split("\n")[0][:300]
        remote = "trust_remote_code" in str(error)
        advice = (
            "Allowed are models whose code is part of the transformers library: code from a model folder is never run. "
            "Choose another model."
            if remote
            else "Allowed is a folder with a saved model, or a name on the model hub that is reachable or downloaded. "
            "Write a path that exists from here, or download the model first."
        )
        raise ValueError(f"The model {model!r} cannot be loaded: {first_line} {advice}") from error
    finally:
        if bars:
            logging.enable_progress_bar()


def load_config(model: str, revision: str | None) -> PreTrainedConfig:
    """Read a model's configuration, without its weights.

    Args:
        model: Folder, or name on the model hub.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        ValueError: If there is no such model, or it needs code of its own.
    """
    from transformers import AutoConfig

    _check_folder(model)
    with readable_loading(model):
        return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)


def load_model(
    load: Callable[..., Any],
    model: str,
    revision: str | None,
    dtype: Dtype,
    quantisation: Quantisation | None,
    device: torch.device,
) -> PreTrainedModel:
    """Load weights from safetensors onto one device, in evaluation mode and without gradients.

    Args:
        load: `from_pretrained` of the class that fits.
        model: Folder, or name on the model hub.
        revision: Branch, tag or commit on the hub; None is its main branch.
        dtype: Of weights and computation; auto: as saved.
        quantisation: nf4 (4 bit, Dettmers et al. 2023) or int8 through bitsandbytes; None keeps the weights.
        device: Where they go.

    Raises:
        ValueError: If the model cannot be loaded.
    """
    kwargs: dict[str, Any] = {"revision": revision, "trust_remote_code": False, "use_safetensors": True}
    kwargs["dtype"] = dtype
    if quantisation is not None:
        kwargs |= {"quantization_config": _quantisation_config(quantisation, dtype), "device_map": {"": str(device)}}
    with readable_loading(model):
        loaded = load(model, **kwargs)
    if quantisation is None:
        loaded = loaded.to(device)
    return loaded.eval().requires_grad_(False)


def _quantisation_config(quantisation: Quantisation, dtype: Dtype) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if quantisation == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def model_digest(model: str, revision: str | None) -> str:
    """Name a model's weights and settings without loading them.

    For a folder: its settings and tokenizer whole, of each weight file the size and 64 samples spread over it. For a
    name: the commit it stands for, or its configuration where none is known.

    Args:
        model: Folder, or name on the model hub.
        revision: Branch, tag or commit on the hub.

    Raises:
        ValueError: If there is no such model.
    """
    _check_folder(model)
    folder = Path(model)
    if folder.is_dir():
        names = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".model", ".txt", ".safetensors"))
        return digest(*(part for path in names for part in (path.name, _samples(path))))
    config = load_config(model, revision)
    return digest(getattr(config, "_commit_hash", None) or json.dumps(config.to_dict(), sort_keys=True, default=str))


def _samples(path: Path) -> bytes:
    """Read a small file whole, of a large one evenly spread blocks: other weights differ nearly everywhere."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _SMALL_BYTES * 64:
            return file.read()
        parts = [size.to_bytes(8, "little")]
        for number in range(_SAMPLES):
            file.seek(number * (size - _SMALL_BYTES // 16) // (_SAMPLES - 1))
            parts.append(file.read(_SMALL_BYTES // 16))
    return b"".join(parts)


def _check_folder(model: str) -> None:
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_like_path and not Path(model).is_dir():
        raise ValueError(
            f"There is no model folder {model!r}. Allowed is a folder written by save_pretrained, or a name on the "
            "model hub such as 'owner/model'. Write a path that exists from here."
        )
