"""Models of the transformers library as judges and writers load them: safetensors only, never code of others."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import Dtype, ModelSettings, ModelSource, Quantisation, has_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


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


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that a device has no memory left.

    Args:
        error: Whatever was raised.
    """
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)


def free_memory() -> None:
    """Give what was let go of back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def readable_errors(model: str) -> Iterator[None]:
    """Turn the many ways in which a part of a model cannot be loaded into one sentence; show no progress bars.

    Args:
        model: Name or folder, for the sentence.

    Raises:
        UserError: Instead of whatever the library raised.
    """
    from transformers.utils import logging as library

    bars = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        said = " ".join(str(error).split())
        if "trust_remote_code" in said:
            raise UserError(
                f"The model {model!r} brings program code of its own, which is never run here (there is no "
                "trust_remote_code). Allowed are models whose code is part of the transformers library. Write another."
            ) from error
        raise UserError(
            f"The model {model!r} cannot be loaded: {said[:300]}. Allowed is a complete folder or hub model that the "
            "installed transformers knows. Save or download it again, or install what is named."
        ) from error
    finally:
        if bars:
            library.enable_progress_bar()


def load_config(source: ModelSource, revision: str | None) -> PreTrainedConfig:
    """Read a model's configuration, without its weights.

    Args:
        source: Where the model comes from.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        ValueError: If it cannot be read, or needs code of its own.
    """
    from transformers import AutoConfig

    with readable_errors(source.model):
        return AutoConfig.from_pretrained(place_of(source), revision=revision, trust_remote_code=False)


def place_of(source: ModelSource) -> str:
    """Return what the library is to load from: the folder of a model that is here whole, the name of another.

    By its name, the hub would be asked once more about every file, and waited for where it is away.
    """
    is_here = source.folder is not None and (source.commit is None or has_weights(source.folder))
    return str(source.folder) if is_here else source.model


def subfolder_of(source: ModelSource, part: str = "") -> dict[str, str]:
    """Return the `subfolder` that the library needs beside `place_of`; nothing where the place is a folder itself.

    Args:
        source: Where the model comes from.
        part: A folder beside the model's own, such as `tokenizer`. Empty: the model's own.
    """
    subfolder = part or source.subfolder
    return {"subfolder": subfolder} if subfolder and place_of(source) == source.model else {}


def check_weights(source: ModelSource) -> None:
    """Refuse a folder without safetensors weights: other formats can hold code.

    Args:
        source: Where the model comes from; a model of the hub is checked when it is loaded.

    Raises:
        UserError: If there are none.
    """
    if source.folder is not None and source.commit is None and not has_weights(source.folder):
        raise UserError(
            f"The model folder {source.model!r} has no complete safetensors weights. Allowed is model.safetensors, or "
            "its parts with model.safetensors.index.json; pickled weights are never read. Save it with save_pretrained."
        )


def load_model(load: Callable[..., Any], source: ModelSource, settings: ModelSettings) -> PreTrainedModel:
    """Load weights from safetensors onto one device, in evaluation mode and without gradients.

    Args:
        load: `from_pretrained` of the class that fits.
        source: Where the model comes from.
        settings: How its weights are held, and where.

    Raises:
        UserError: If the model cannot be loaded, or does not fit the device.
    """
    check_weights(source)
    dtype, quantisation, device = settings.dtype, settings.quantisation, rank_device(settings.device)
    options: dict[str, Any] = {"revision": settings.revision, "dtype": dtype, "trust_remote_code": False}
    options |= subfolder_of(source)
    if quantisation is not None:
        packing = {"quantization_config": _quantisation_config(quantisation, dtype)}
        options |= packing | {"device_map": {"": str(device)}}
    try:
        with readable_errors(source.model):
            model = load(place_of(source), use_safetensors=True, **options)
        if quantisation is None:
            model = model.to(device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        free_memory()
        raise UserError(
            f"The weights of {source.model!r} do not fit {device} (dtype {dtype}, quantisation {quantisation}). "
            "Allowed is what its memory holds beside the student. Write `quantisation: nf4`, or `offload_student: all`."
        ) from error
    return model.eval().requires_grad_(False)


def _quantisation_config(quantisation: Quantisation, dtype: Dtype) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if quantisation == "int8":
        # it would say for every product of every layer that inputs are cast to float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
