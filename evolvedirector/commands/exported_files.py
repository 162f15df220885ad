"""What `evolvedirector export` writes beside the card: a stock pipeline, a network in our own form, or a LoRA."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from safetensors.torch import save_file
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.experts.lora import LoRA
from evolvedirector.lightning_modules import Family, TextToImage
from evolvedirector.lightning_modules.families.family import Layout
from evolvedirector.lightning_modules.families.pretrained import Pretrained, StartsPretrained
from evolvedirector.lightning_modules.families.wrapped_family import WrappedFamily
from evolvedirector.models.exported_student import LORA_FILES, NETWORK, STUDENT
from evolvedirector.store.paths import hub_name

LORA_FILE = LORA_FILES[0]
_USAGE_OF_WRAPPED = """# the network's own class knows nothing of the parts that were added to it, the student does
from pathlib import Path

from evolvedirector.models.exported_student import exported_student

student = exported_student(Path("this folder"))  # student.generate([ImageRequest(...)]) draws"""
_OF_TRAINING = ("optimizer", "lr_scheduler", "trained", "compute", "text_cache_folder")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside the wanted one, which takes its place when the block ends without an error.

    Args:
        out: Is not there, or empty.
    """
    partial = out.parent / f"{out.name}.tmp.{uuid.uuid4().hex[:8]}"
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_whole(module: TextToImage, network: nn.Module, model: Namespace, folder: Path) -> str:
    """Write the stock pipeline where the family has one, else the network and what builds a student around it.

    Args:
        module: The student.
        network: Of the student, plain, with the weights that are exported.
        model: The `model` part of the run's config.
        folder: Is there, and empty.

    Returns:
        Python that uses it.
    """
    scheduler = module.objective.scheduler(module.sampling_steps)
    try:
        pipeline = module.family.pipeline(network, scheduler)
    except UserError as refusal:  # parts that no stock pipeline has
        saved: Any = network
        saved.save_pretrained(folder / NETWORK, safe_serialization=True)
        (folder / STUDENT).write_text(student_text(model), encoding="utf-8")
        print(f"The network alone is exported: {refusal} Or: evolvedirector generate THIS_FOLDER", flush=True)
        if isinstance(module.family, WrappedFamily):
            return _USAGE_OF_WRAPPED
        name = type(network).__name__
        return "\n".join((
            "# The whole student draws with: evolvedirector generate THIS_FOLDER --prompts ...",
            f"from {_package(network)} import {name}",
            "",
            f'network = {name}.from_pretrained("{NETWORK}")',
        ))  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    name, of_network = type(pipeline).__name__, _package(network)
    own = () if of_network == "diffusers" else (f"import {of_network}  # the class of the network",)
    return "\n".join((
        *own,
        f"from {_package(pipeline)} import {name}",
        "",
        f'pipeline = {name}.from_pretrained("this folder")',
        _drawing(module),
    ))  # fmt: skip


def write_lora(
    module: TextToImage, lora: LoRA, named: Mapping[str, Tensor], layout: Layout, dtype: torch.dtype, folder: Path
) -> str:
    """Write a LoRA as other programs read it.

    Args:
        module: The student, in its run: with network and frozen parts.
        lora: What is written: the run's own, one of its experts, or their merge.
        named: Tensors under the names of the layout.
        layout: Who reads the file.
        dtype: Of the matrices.
        folder: Is there, and empty.

    Returns:
        Python that uses it.

    Raises:
        UserError: There is no stock pipeline that could load it.
    """
    from diffusers.loaders.lora_base import LoraBaseMixin

    assert module.transformer is not None
    try:
        pipeline = module.family.pipeline(module.transformer, module.objective.scheduler(module.sampling_steps))
    except UserError as refusal:
        raise UserError(f"No stock pipeline could load the LoRA alone: {refusal} Or write --merged.") from refusal
    tensors = {name: value.to(dtype) if value.dim() else value for name, value in named.items()}
    place = next(name for name, part in pipeline.components.items() if part is module.transformer)
    base = _base(module.family)
    begin = [f"from {_package(pipeline)} import {type(pipeline).__name__}"]
    load = [f"pipeline = {type(pipeline).__name__}.from_pretrained({base})"]
    if isinstance(pipeline, LoraBaseMixin):
        if layout == "diffusers":
            tensors = {f"{place}.{name}": value for name, value in tensors.items()}
        save_file(tensors, folder / LORA_FILE, metadata={"format": "pt"})
        load.append('pipeline.load_lora_weights("this folder")')
    else:
        _write_for_peft(module.transformer, module.family, lora, tensors, folder)
        begin.append("from peft import PeftModel")
        load.append(f'network = PeftModel.from_pretrained(pipeline.{place}, "this folder")')
        load.append(f"pipeline.{place} = network.merge_and_unload()  # this pipeline does not load LoRAs itself")
    if layout != "diffusers":
        begin.insert(0, f"# {LORA_FILE} has the names of {layout}; ComfyUI reads it in models/loras. Diffusers, too:")
    return "\n".join((*begin, "", *load, _drawing(module)))


def student_text(model: Namespace) -> str:
    """Return the YAML that builds a student anew: what trains is left out.

    Args:
        model: The `model` part of a run's config.
    """
    tree = json.loads(json.dumps(model.as_dict(), default=str))  # paths and tuples become plain
    kept = {name: value for name, value in tree["init_args"].items() if name not in _OF_TRAINING}
    student = {"class_path": tree["class_path"], "init_args": kept}
    return yaml.safe_dump({"model": student}, sort_keys=False, allow_unicode=True)


def _write_for_peft(network: nn.Module, family: Family, lora: LoRA, named: dict[str, Tensor], folder: Path) -> None:
    """Write the folder that peft reads, for networks to which diffusers adds no LoRA."""
    import peft

    targets: Sequence[str] = family.lora_targets() if lora.targets is None else lora.targets
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank,  # the scale is in the matrices
        target_modules=list(targets),
        use_dora=lora.dora,
        base_model_name_or_path=hub_name(family.pretrained.name)
        if isinstance(family, StartsPretrained) and family.pretrained
        else None,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    tensors = {f"base_model.model.{name}": value for name, value in named.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _base(family: Family) -> str:
    """Write the arguments that load the base's pipeline."""
    found: Pretrained | None = family.pretrained if isinstance(family, StartsPretrained) else None
    if found is None or found.subfolder is None:
        return '"the pipeline of the base"'
    revision = f', revision="{found.revision}"' if found.revision else ""
    return f'"{hub_name(found.name)}"{revision}'


def _drawing(module: TextToImage) -> str:
    return (
        f'image = pipeline("a prompt", num_inference_steps={module.sampling_steps}, '
        f"guidance_scale={module.guidance_scale:g}).images[0]"
    )


def _package(thing: object) -> str:
    """Name where a class is imported from: diffusers gives all of its own at the top."""
    module = type(thing).__module__
    return "diffusers" if module.startswith("diffusers.") else module
