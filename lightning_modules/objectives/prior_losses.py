"""The losses of ECLIPSE (Patel et al. 2023, arXiv:2312.04655, equations 3 to 5), one value per sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from evolvedirector.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

Reduction: TypeAlias = Literal["sum", "mean"]
"""Over the dimensions of an embedding; over samples it is always the mean."""


def check_reduction(reduction: str) -> None:
    """Refuse a word that would silently mean another loss.

    Args:
        reduction: As given.

    Raises:
        UserError: It is no reduction.
    """
    if reduction not in get_args(Reduction):
        raise UserError(
            f"reduction is {reduction!r}. Allowed are {' or '.join(get_args(Reduction))}. Write reduction: sum."
        )


def projection_loss(
    predicted: Float[Tensor, "batch embedding"], target: Float[Tensor, "batch embedding"], reduction: Reduction
) -> Float[Tensor, " batch"]:
    """Return |z - z'|^2 (equation 3), or the mean of its terms.

    The paper prints the squared norm, a sum; most code writes the mean. They differ by the width of the embedding, and
    with it what a contrastive weight means.

    Args:
        predicted: Image embeddings z'.
        target: True ones z, raw.
        reduction: Over the dimensions.
    """
    squared = (predicted.float() - target.float()) ** 2
    return squared.sum(-1) if reduction == "sum" else squared.mean(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """What a predicted image must choose its own text from.

    Args:
        embeddings: Float[text, embedding] of all texts.
        names: Int64[text]: equal for equal texts.
        first: Row of the text that belongs to the first prediction; the others follow in order.
    """

    embeddings: Tensor
    names: Tensor
    first: int = 0


def contrastive_loss(
    predicted: Float[Tensor, "batch embedding"], texts: Texts, temperature: float
) -> Float[Tensor, " batch"]:
    """Return -log(exp(c_ii / tau) / sum_j exp(c_ij / tau)), c_ij the cosine of image i and text j (equation 4).

    One direction only: each predicted image among all texts, never a text among images. A row that holds the same text
    as the image's own is no negative and is left out, which is ours: the paper does not speak of it.

    Args:
        predicted: Image embeddings.
        texts: Of this batch, or of all ranks.
        temperature: tau.
    """
    own = torch.arange(len(predicted), device=predicted.device) + texts.first
    with torch.autocast(predicted.device.type, enabled=False):  # eight bits of a cosine over .01 are noise
        cosines = F.normalize(predicted.float(), dim=-1) @ F.normalize(texts.embeddings.float(), dim=-1).T
        same = texts.names[own][:, None] == texts.names[None]
        same[torch.arange(len(own), device=own.device), own] = False
        return F.cross_entropy((cosines / temperature).masked_fill(same, -torch.inf), own, reduction="none")


def total_loss(projection: Tensor, contrastive: Tensor, contrastive_weight: float) -> Tensor:
    """Return L_proj + lambda L_CLS (equation 5).

    Args:
        projection: Of each sample.
        contrastive: Likewise.
        contrastive_weight: lambda.
    """
    return projection + contrastive_weight * contrastive


def texts_of(embeddings: Float[Tensor, "batch embedding"], prompts: Sequence[str], gather: bool) -> Texts:
    """Return the texts of this batch, or those of the batches of all ranks.

    No gradient has to cross ranks: texts are given, and the loss of a prediction reads no other prediction.

    Args:
        embeddings: Of this rank's texts.
        prompts: The texts themselves; equal ones are no negatives of each other.
        gather: Over all ranks, whose batches must have one size; on one rank it changes nothing.
    """
    names = text_names(prompts).to(embeddings.device)
    if not (gather and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return Texts(embeddings, names)
    embeddings = embeddings.detach().float().contiguous()
    every = [torch.empty_like(embeddings) for _ in range(dist.get_world_size())]
    every_name = [torch.empty_like(names) for _ in range(dist.get_world_size())]
    dist.all_gather(every, embeddings)
    dist.all_gather(every_name, names)
    return Texts(torch.cat(every), torch.cat(every_name), dist.get_rank() * len(embeddings))


def text_names(prompts: Sequence[str]) -> Int64[Tensor, " batch"]:
    """Return a number per text, the same in every process: 64 bits of its SHA-256.

    Args:
        prompts: Texts.
    """
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8] for text in prompts]
    return torch.tensor([int.from_bytes(found, "little", signed=True) for found in digests], dtype=torch.int64)
