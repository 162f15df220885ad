"""Find a diffusers pipeline, check what it accepts, load it without running foreign code, and let it go again."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolvedirector.errors import RunError, UserError
from evolvedirector.models.import_diffusers import import_diffusers
from evolvedirector.store.paths import local_model, user_path
from evolvedirector.teachers.local.pipeline_files import (
    INDEX,
    DType,
    Offload,
    Quantisation,
    component_names,
    quantisable,
    read_index,
)


@dataclass(frozen=True, slots=True)
class PipelineSource:
    """Where a pipeline comes from.

    Attributes:
        model: Name in the hub or folder.
        folder: The folder, or the local copy of the hub's; None: not downloaded yet.
        commit: Commit of the hub's repository; None for a folder, and for a hub that cannot be asked.
    """

    model: str
    folder: Path | None
    commit: str | None


def find_pipeline(model: str, revision: str | None) -> PipelineSource:
    """Find a folder or a model of the hub, local copies first; nothing but a commit's name is asked over the network.

    Args:
        model: Name in the hub (`owner/name`) or folder.
        revision: Branch, tag or commit; None is `main`.

    Raises:
        UserError: There is no such folder, or the name cannot be one.
    """
    path = local_model(model) or user_path(model)
    if path.is_dir():
        return PipelineSource(model, path, None)
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise UserError(
            f"model is '{model}', but there is no such folder. Allowed is a folder with a {INDEX}, or a name of the "
            "hub such as 'PixArt-alpha/PixArt-XL-2-512x512'. Correct the path."
        )
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = try_to_load_from_cache(model, INDEX, revision=revision)
        if isinstance(found, str):
            return PipelineSource(model, Path(found).parent, Path(found).parent.name)
        return PipelineSource(model, None, HfApi().model_info(model, revision=revision, timeout=10).sha)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"model is '{model}' at revision {revision or 'main'}, which the hub does not show. Allowed is a public "
            "name, or a private one with HF_TOKEN set, or a folder. Correct the name."
        ) from error
    except Exception:  # offline in one of many ways, each with its own exception
        return PipelineSource(model, None, None)


def index_of(source: PipelineSource) -> dict[str, Any]:
    """Read a pipeline's list of parts; of a model of the hub that is not here yet, this one small file is fetched.

    Args:
        source: Where the pipeline comes from.

    Raises:
        UserError: It cannot be had or read.
    """
    if source.folder is not None:
        return read_index(source.folder)
    from huggingface_hub import hf_hub_download

    try:
        with quiet():
            return read_index(Path(hf_hub_download(source.model, INDEX, revision=source.commit)).parent)
    except Exception as error:
        raise UserError(
            f"The pipeline '{source.model}' is not on this machine, and the hub does not give its {INDEX} "
            f"({type(error).__name__}). Allowed is a pipeline of diffusers. Check its name and the network, or "
            "download it before and name the folder."
        ) from error


def pipeline_class(index: Mapping[str, Any]) -> type:
    """Return the text-to-image class of diffusers for a pipeline.

    Args:
        index: Content of its `model_index.json`.

    Raises:
        UserError: diffusers knows no such class.
    """
    import_diffusers()
    import diffusers
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING, _get_task_class

    name = index["_class_name"]
    found = _get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, name, throw_error_if_not_exist=False)
    found = found or getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise UserError(
            f"The pipeline class is '{name}', which diffusers {diffusers.__version__} does not have. Allowed are its "
            "text-to-image pipelines. Update diffusers or choose another model."
        )
    return found


def check_device(device: str, quantisation: Quantisation | None, offload: Offload) -> None:
    """Refuse a device that is not there, or that cannot hold weights as asked.

    Args:
        device: Where to draw.
        quantisation: How weights are stored.
        offload: What stays on the device.

    Raises:
        UserError: With what to write instead.
    """
    import torch

    if device.startswith("cuda") and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device is '{device}', which is not on this machine. Allowed are its own devices. Leave it out to take "
            "the rank's own."
        )
    if device.startswith("cpu") and (quantisation is not None or offload != "none"):
        raise UserError(
            f"quantisation is {quantisation} and offload is '{offload}', but the device is the CPU. Allowed there are "
            "null and 'none': both need a GPU. Leave them out and write `dtype: bfloat16`."
        )


def load_pipeline(
    found: type,
    source: PipelineSource,
    index: Mapping[str, Any],
    dtype: DType,
    quantisation: Quantisation | None,
    offload: Offload,
    device: str,
    variant: str | None = None,
) -> Any:
    """Load a pipeline onto a device: safetensors only, no foreign code, progress bars off.

    Raises:
        UserError: Something of it is missing or unreadable.
        RunError: It does not fit into the device's memory.
    """
    import torch
    from diffusers.utils import deprecation_utils

    # the older word warns where the newer one is known, and the newer one is ignored where it is not
    word = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
    settings: dict[str, Any] = {word: getattr(torch, dtype), "use_safetensors": True}
    if quantisation is not None:
        settings["quantization_config"] = _quantised(index, quantisation, dtype)
    if source.commit is not None:
        settings["revision"] = source.commit
    if variant is not None:
        settings["variant"] = variant
    try:
        with quiet():
            # by its name in the hub, so that a copy which lacks files is completed
            where = source.folder if source.commit is None and source.folder else source.model
            pipeline = found.from_pretrained(where, **settings)  # type: ignore[attr-defined]
            if offload == "none":
                pipeline.to(device)
            elif offload == "model":
                pipeline.enable_model_cpu_offload(device=device)
            else:
                pipeline.enable_sequential_cpu_offload(device=device)
    except Exception as error:
        if is_out_of_memory(error):
            raise RunError(
                f"The pipeline '{source.model}' does not fit into the memory of {device} (quantisation {quantisation}, "
                f"offload {offload}). Allowed is what that memory holds beside the student. Write `quantisation: nf4`, "
                "`offload: model` or `offload: sequential`."
            ) from error
        reason = (str(error).strip().splitlines() or ["no reason is given"])[0].rstrip(".")
        raise UserError(
            f"The pipeline '{source.model}' cannot be loaded: {type(error).__name__}: {reason}. "
            "Allowed is a whole pipeline of diffusers with safetensors weights. Download or copy it again."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def free_pipeline(pipeline: Any) -> None:
    """Undo what holds a pipeline's weights besides the caller's reference: offload hooks, which form a cycle."""
    pipeline.remove_all_hooks()


def empty_memory(device: str) -> None:
    """Collect what nothing refers to any more and hand the device's free memory back."""
    import torch

    gc.collect()
    if device.startswith("cuda") and torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in ("out of memory", "not enough memory"))
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars of loading; afterwards they are as they were."""
    import transformers.utils.logging
    from diffusers.utils import logging

    shown: list[Callable[[], None]] = []
    for module in (logging, transformers.utils.logging):
        if module.is_progress_bar_enabled():
            module.disable_progress_bar()
            shown.append(module.enable_progress_bar)
    try:
        yield
    finally:
        for show in shown:
            show()


@contextmanager
def own_random_state(device: str) -> Iterator[None]:
    """Leave the global generators as they are: loading draws from them, and training must not notice a round.

    Args:
        device: Where the pipeline works; its generator is kept too.
    """
    import torch

    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices):
        yield


def _quantised(index: Mapping[str, Any], quantisation: Quantisation, dtype: DType) -> Any:
    """Return diffusers' settings: linear layers of denoisers and text encoders by bitsandbytes."""
    import torch
    from diffusers import PipelineQuantizationConfig

    how: dict[str, Any]
    kind, how = "bitsandbytes_8bit", {"load_in_8bit": True}
    if quantisation == "nf4":
        kind, how = "bitsandbytes_4bit", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
        how["bnb_4bit_compute_dtype"] = getattr(torch, dtype)
    parts = [name for name in component_names(index) if quantisable(name)]
    return PipelineQuantizationConfig(quant_backend=kind, quant_kwargs=how, components_to_quantize=parts)
