"""The base of a merge: what its layers are called elsewhere, and its weights with an expert folded in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from evolvedirector.errors import UserError
from evolvedirector.experts import Expert, fold_expert
from evolvedirector.experts.expert_files import Pair
from evolvedirector.experts.lora import base_digest
from evolvedirector.lightning_modules.families.family import Layout
from evolvedirector.lightning_modules.families.lora_layout import LowRank, lora_in_layout, lora_of_layout
from evolvedirector.lightning_modules.families.stock_names import stock_key_map
from evolvedirector.models.exported_student import NETWORK, STUDENT, exported_student
from evolvedirector.store.paths import local_model, user_path
from evolvedirector.teachers.local.pipeline_files import check_weights, component_names
from evolvedirector.teachers.local.pipeline_loading import find_pipeline, index_of, load_pipeline, pipeline_class, quiet

_PLACES = ("transformer", "unet")


@dataclass(frozen=True, eq=False)
class StockBase:
    """The network of a diffusers pipeline without its weights.

    Args:
        name: Of the pipeline: a folder, or a name on the hub.
        place: What the network is called in it.
        network: On the device `meta`.
        takes_loras: Whether the pipeline loads LoRAs itself.
    """

    name: str
    place: str
    network: Any
    takes_loras: bool

    def tensors(self, expert: Expert, layout: Layout) -> dict[str, Tensor]:
        """Name the tensors of an expert as a program reads them.

        Args:
            expert: Of this base.
            layout: Who reads them.

        Raises:
            UserError: The pipeline loads no LoRA, or the layout has no name for a layer.
        """
        if layout == "diffusers" and not self.takes_loras:
            raise UserError(
                f"The pipeline of {self.name!r} loads no LoRA in diffusers. Allowed are --layout ours, which "
                f"evolvedirector reads, and the whole pipeline. Write --fused {self.name}."
            )
        alpha = expert.lora.scale * expert.lora.rank
        pairs = {layer: LowRank(down, up, alpha) for layer, (down, up) in expert.factors.items()}
        named = lora_in_layout(pairs, self._names(layout), self.network)
        return {f"{self.place}.{name}": value for name, value in named.items()} if layout == "diffusers" else named

    def pairs(self, tensors: Mapping[str, Tensor]) -> dict[str, Pair]:
        """Read a LoRA under the names of ComfyUI or of kohya's scripts, whichever they are.

        Args:
            tensors: Of the file.

        Raises:
            UserError: They are of neither.
        """
        refusal: UserError | None = None
        for layout in get_args(Layout)[1:]:
            try:
                found = lora_of_layout(tensors, self._names(layout), self.network)
                return {layer: Pair(pair.down, pair.up, pair.alpha) for layer, pair in found.items()}
            except UserError as error:
                refusal = error
        assert refusal is not None
        raise refusal

    def _names(self, layout: Layout) -> Callable[[str], str]:
        return stock_key_map(type(self.network).__name__, self.network.config, layout)


def stock_base(name: str) -> StockBase:
    """Read what network a pipeline has; of a model on the hub that is not here, two small files are fetched.

    Args:
        name: A folder, or a name on the hub.

    Raises:
        UserError: There is no such pipeline, or it has no network that makes images.
    """
    source = find_pipeline(name, None)
    index = index_of(source)
    place = _place(name, index)
    found = pipeline_class(index)
    import diffusers
    from diffusers.loaders.lora_base import LoraBaseMixin

    kind: Any = getattr(diffusers, index[place][1], None)
    if kind is None:
        raise UserError(
            f"The network of {name!r} is a {index[place][1]}, which diffusers {diffusers.__version__} does not have. "
            "Allowed are its own. Update diffusers or write --layout ours."
        )
    try:
        config = kind.load_config(source.folder or name, subfolder=place, revision=source.commit)
    except OSError as error:
        raise UserError(
            f"The config of the network of {name!r} cannot be read ({type(error).__name__}). Allowed is a whole "
            "pipeline. Check its name and the network, or copy it again."
        ) from error
    with torch.device("meta"):
        network = kind.from_config(config)
    return StockBase(name, place, network, issubclass(found, LoraBaseMixin))


def write_fused(expert: Expert, base: str, dtype: torch.dtype, folder: Path) -> None:
    """Write the pipeline of a base, or a student in our own form, with an expert folded into its network.

    Args:
        expert: What is folded in.
        base: A pipeline's folder or name on the hub, or a folder that `evolvedirector export` wrote.
        dtype: Of the weights that are written.
        folder: Is there, and empty.

    Raises:
        UserError: The base cannot be loaded, or is another one than the expert's.
    """
    own = local_model(base) or user_path(base)
    if (own / STUDENT).is_file():
        network: Any = exported_student(own).transformer
        _fold(expert, base, network)
        with quiet():
            network.to(dtype).save_pretrained(folder / NETWORK, safe_serialization=True)
        shutil.copyfile(own / STUDENT, folder / STUDENT)
        return
    source = find_pipeline(base, None)
    index = index_of(source)
    if source.folder is not None:
        check_weights(source.folder, index)
    place = _place(base, index)
    from diffusers import DiffusionPipeline

    pipeline = load_pipeline(DiffusionPipeline, source, index, "float32", None, "none", "cpu")
    _fold(expert, base, getattr(pipeline, place))
    with quiet():
        whole = pipeline if dtype == torch.float32 else pipeline.to(dtype=dtype)
        whole.save_pretrained(folder, safe_serialization=True)


def _fold(expert: Expert, base: str, network: nn.Module) -> None:
    found = base_digest(network)
    if expert.base_digest and found != expert.base_digest:
        raise UserError(
            f"The experts were trained beside {expert.base or 'a base'} ({expert.base_digest}), but --fused is {base} "
            f"({found}), whose weights are others. Beside those they mean nothing. Name their own base."
        )
    fold_expert(network, expert)


def _place(name: str, index: Mapping[str, Any]) -> str:
    place = next((place for place in _PLACES if place in component_names(index)), None)
    if place is None:
        raise UserError(
            f"The pipeline {name!r} has no {' and no '.join(_PLACES)}. Allowed are pipelines that draw with one of "
            "them. Name another."
        )
    return place
