"""Put subjects into texts: lambda-ECLIPSE's states of a subject's tokens are the embedding of its image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """Name what an image shows.

    Args:
        name: As it stands in the prompt: `cat`, `red backpack`.
        embedding: Float[embedding] of its image.
        begin: Character of the prompt at which it begins. None: where it first stands as whole words.
    """

    name: str
    embedding: Tensor
    begin: int | None = None


def put_subjects(
    text_states: Float[Tensor, "batch token width"],
    tokens: Bool[Tensor, "batch subject token"],
    embeddings: Float[Tensor, "batch subject width"],
) -> Float[Tensor, "batch token width"]:
    """Return text states in which the tokens of each subject hold the embedding of its image.

    lambda-ECLIPSE (Patel et al. 2024, arXiv:2402.05195, section 3.2): after the text encoder, so without a parameter;
    states and embeddings have one width.

    Args:
        text_states: Of texts.
        tokens: Those of each subject; all false where a text has fewer subjects than another.
        embeddings: Of the subjects' images, raw.

    Raises:
        UserError: The widths differ.
    """
    if text_states.shape[-1] != embeddings.shape[-1]:
        raise UserError(
            f"Text states have the width {text_states.shape[-1]}, image embeddings {embeddings.shape[-1]}. A subject "
            "takes the place of tokens only where both are equal. Use an embedder such as CLIP-L or bigG."
        )
    short = text_states.shape[1] - tokens.shape[2]
    tokens = torch.nn.functional.pad(tokens, (0, short)) if short > 0 else tokens[..., : text_states.shape[1]]
    for subject in range(tokens.shape[1]):
        text_states = torch.where(tokens[:, subject, :, None], embeddings[:, subject, None], text_states)
    return text_states
