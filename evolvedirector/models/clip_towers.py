"""The two halves of a CLIP, each found and loaded by itself: a whole model, or folders of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import ModelSettings, ModelSource
from evolvedirector.models.model_loading import load_model, place_of, readable_errors, subfolder_of
from evolvedirector.models.vision_processor import give_padding

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Half = Literal["text", "vision"]
SUBFOLDERS: dict[Half, tuple[str, ...]] = {"text": ("", "text_encoder"), "vision": ("", "image_encoder")}
"""Where each half lies: at the top of a whole CLIP, or in a folder of a pipeline such as Kandinsky's or Karlo's."""
_PROCESSORS = ("image_processor", "feature_extractor")
_CLASSES: dict[Half, tuple[str, str]] = {
    "text": ("CLIPTextConfig", "CLIPTextModelWithProjection"),
    "vision": ("CLIPVisionConfig", "CLIPVisionModelWithProjection"),
}


def half_config(half: Half, source: ModelSource, revision: str | None, projection_dim: int | None) -> PreTrainedConfig:
    """Read the configuration of one half of a CLIP.

    The configuration of a whole CLIP has the width of the joint space at its top; its halves often repeat another one
    (bigG's says 512 in place of 1280), and a half that is loaded by itself would take that.

    Args:
        half: Which.
        source: Where it lies.
        revision: Branch, tag or commit on the hub; None is its main branch.
        projection_dim: Width of the joint space. None: what the configuration says.

    Raises:
        UserError: It cannot be read, or is of another kind of model.
    """
    import transformers

    kind: Any = getattr(transformers, _CLASSES[half][0])
    with readable_errors(source.model):
        said, _ = kind.get_config_dict(place_of(source), revision=revision, **subfolder_of(source))
    if said.get("model_type") not in ("clip", f"clip_{half}_model"):
        raise UserError(
            f"The model {source.model!r} is a {said.get('model_type')}, no CLIP with a {half} half. Allowed is a CLIP "
            "of transformers, whole or as a folder of a pipeline. Write `openai/clip-vit-large-patch14`, say."
        )
    with readable_errors(source.model):
        config = kind.from_dict(said.get(f"{half}_config", said))
    config.projection_dim = projection_dim or said.get("projection_dim", config.projection_dim)
    return config


def load_half(half: Half, source: ModelSource, settings: ModelSettings, config: PreTrainedConfig) -> Any:
    """Load one half of a CLIP with its projection; of a whole CLIP the other half stays on the disk.

    Args:
        half: Which.
        source: Where it lies.
        settings: How its weights are held.
        config: From `half_config`.

    Raises:
        UserError: It cannot be loaded, or lacks weights, the projection say.
    """
    import transformers

    load = partial(_loaded_whole, getattr(transformers, _CLASSES[half][1]), source.model, config)
    return load_model(load, source, settings)


def _loaded_whole(kind: Any, name: str, config: PreTrainedConfig, place: str, **options: Any) -> Any:
    from transformers.utils import logging as library

    said = library.get_verbosity()
    library.set_verbosity_error()  # it would list the other half as weights that are not used
    try:
        with torch.random.fork_rng(devices=[]):  # layers are drawn before their weights are read
            model, report = kind.from_pretrained(place, config=config, output_loading_info=True, **options)
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise UserError(
            f"The weights of {name!r} have other shapes than its configuration with projection_dim "
            f"{config.projection_dim} says. Allowed is the width of its own joint space. Leave projection_dim out, or "
            "write the right one."
        ) from error
    finally:
        library.set_verbosity(said)
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"The model {name!r} lacks {len(missing)} of its weights, {missing[0]} first. Allowed is a CLIP with the "
            "projection into its joint space. Write another model, or save it again whole."
        )
    return model


def load_tokenizer(source: ModelSource, revision: str | None) -> Any:
    """Load the tokenizer of a text half; a pipeline has it in a folder beside.

    Args:
        source: Where the text half lies.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        UserError: There is none.
    """
    from transformers import AutoTokenizer

    part = "tokenizer" if source.subfolder else ""
    tokenizer = _load_beside(AutoTokenizer.from_pretrained, source, revision, (part,))
    give_padding(tokenizer)
    tokenizer.padding_side = "right"
    return tokenizer


def load_image_processor(source: ModelSource, revision: str | None) -> Any:
    """Load what scales and crops images for a vision half; through Pillow, alike on every machine.

    Args:
        source: Where the vision half lies.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        UserError: There is none.
    """
    from transformers import AutoImageProcessor

    parts = _PROCESSORS if source.subfolder else ("",)
    return _load_beside(partial(AutoImageProcessor.from_pretrained, backend="pil"), source, revision, parts)


def _load_beside(load: Callable[..., Any], source: ModelSource, revision: str | None, parts: Sequence[str]) -> Any:
    """Load from the first of the parts that is there, and from the last one where nobody can know that."""
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with readable_errors(source.model):
        if place_of(source) != source.model or source.folder is not None:
            assert source.folder is not None
            above = source.folder.parent if source.subfolder else source.folder
            part = next((part for part in parts if (above / part).is_dir()), parts[-1])
            return load(str(above / part), **options)
        for part in parts[:-1]:
            try:
                return load(source.model, **options, **subfolder_of(source, part))
            except (OSError, ValueError):
                continue
        return load(source.model, **options, **subfolder_of(source, parts[-1]))


def token_lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Count the tokens of texts before anything is cut, their marks of beginning and end included.

    Args:
        tokenizer: Of the text half.
        texts: Any.
    """
    found = tokenizer(list(texts), add_special_tokens=True, truncation=False, padding=False, verbose=False)
    return [len(ids) for ids in found["input_ids"]]


def padded_rows(values: Tensor, rows: int) -> Tensor:
    """Repeat the last row until there are so many: a batch of one shape gives a row one value, whatever is beside it.

    Args:
        values: [n ...], n at least 1 and at most `rows`.
        rows: Of the result.
    """
    return torch.cat([values, values[-1:].expand(rows - len(values), *values.shape[1:])])
