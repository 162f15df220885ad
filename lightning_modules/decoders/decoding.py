"""What every decoder from embeddings does around its own maths: checks, generators, pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evolvedirector.errors import RunError, UserError
from evolvedirector.records import ImageRequest
from evolvedirector.store.errors import StoreError
from evolvedirector.store.files import decode_file
from evolvedirector.store.paths import hub_name, user_path

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

_MAX_FILE_BYTES = 2**20


def check_embeddings(
    what: str, embedding_dim: int, embeddings: Tensor, negative: Tensor | None, requests: Sequence[ImageRequest]
) -> None:
    """Refuse embeddings that a decoder cannot read.

    Args:
        what: Names the decoder, as the error begins.
        embedding_dim: Width that it reads.
        embeddings: [batch, embedding].
        negative: Likewise. None: there are none.
        requests: One for each.

    Raises:
        UserError: They are of another width or number, or not finite.
    """
    for name, found in (("embeddings", embeddings), ("negative embeddings", negative)):
        if found is None:
            continue
        if found.dim() != 2 or found.shape[1] != embedding_dim:
            raise UserError(
                f"{what} reads {name} of width {embedding_dim}, but these have the shape {tuple(found.shape)}. Allowed "
                "are those of the embedder that the decoder was trained with. Take the decoder of that embedder: "
                "Kandinsky 2.2 reads CLIP bigG (1280), Karlo CLIP L (768)."
            )
        if len(found) != len(requests):
            raise UserError(
                f"{what} was given {len(found)} {name} for {len(requests)} requests. Allowed is one for each. Hand it "
                "as many."
            )
        if not found.isfinite().all():
            prompts = [r.prompt for r, row in zip(requests, found.isfinite().all(1).tolist(), strict=True) if not row]
            raise UserError(
                f"{what} was given {name} with values that are not finite, first for {prompts[0]!r}. Allowed are "
                "numbers. Go on from an earlier checkpoint of the prior with a lower learning rate."
            )


def check_at_least(least: int, **numbers: int) -> None:
    """Refuse numbers with which nothing is drawn.

    Args:
        least: What each must reach.
        numbers: By the name of the argument.

    Raises:
        UserError: One is too small.
    """
    for name, value in numbers.items():
        if value < least:
            raise UserError(f"{name} is {value}. Allowed is at least {least}. Write {name}: {4 * least}, say.")


def name_anywhere(model: str) -> str:
    """Return what a model is called on every machine: its name on the hub, or of a folder the last part of its path.

    Args:
        model: As `folder_or_hub_name` returns it.
    """
    name = hub_name(model)
    return Path(name).name if Path(name).is_dir() else name


def generators_after_prior(requests: Sequence[ImageRequest], embedding_dim: int) -> list[torch.Generator]:
    """Return a CPU generator per request in the state in which a prior leaves it that has drawn its noise.

    So the decoder's noise is no repetition of the prior's, and an image is that of a pipeline which hands one generator
    of the same seed to the prior and then to the decoder.

    Args:
        requests: Give the seeds.
        embedding_dim: Numbers that the prior draws for each.
    """
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    for generator in generators:
        torch.randn(1, embedding_dim, generator=generator)
    return generators


def pixels(images: Float[np.ndarray, "batch height width 3"], prompts: Sequence[str]) -> UInt8[Tensor, "batch 3 h w"]:
    """Map [0, 1] to 0...255, as the pipelines of diffusers do.

    Args:
        images: As a pipeline returns them for `output_type="np"`.
        prompts: Of each.

    Raises:
        RunError: One is not finite.
    """
    for prompt, is_finite in zip(prompts, np.isfinite(images).all(axis=(1, 2, 3)), strict=True):
        if not is_finite:
            raise RunError(
                f"The decoder drew numbers that are not finite for {prompt!r}. Allowed are numbers. Write dtype: "
                "float32 for it."
            )
    return torch.from_numpy((images * 255).round().astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def read_embedding(path: Path, embedding_dim: int) -> Float[Tensor, " embedding"]:
    """Read one embedding from a .npy file; pickled objects are refused.

    Args:
        path: Holds [embedding] or [1, embedding].
        embedding_dim: Its width.

    Raises:
        UserError: It cannot be read, or has another width.
    """
    path = user_path(path)
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError(f"it has over {_MAX_FILE_BYTES} bytes")
        found = decode_file(path.read_bytes(), "npy", "negative").astype(np.float32)
    except (OSError, ValueError, StoreError) as error:
        raise UserError(
            f"The negative embedding '{path}' cannot be read: {' '.join(str(error).split())[:200]}. Allowed is a .npy "
            "file of numbers. Write one with numpy.save."
        ) from error
    if found.shape not in ((embedding_dim,), (1, embedding_dim)) or not np.isfinite(found).all():
        raise UserError(
            f"The negative embedding '{path}' has the shape {found.shape} or values that are not finite. Allowed are "
            f"{embedding_dim} numbers, as the decoder reads. Take the one of this decoder's own embedder."
        )
    return torch.from_numpy(found.reshape(embedding_dim).copy())
