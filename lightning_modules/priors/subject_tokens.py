"""Put subjects into texts: lambda-ECLIPSE's states of a subject's tokens are the embedding of its image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from evolvedirector.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Span: TypeAlias = tuple[int, int]
"""First character, and the one after the last."""


@runtime_checkable
class OffersTokenSpans(Protocol):
    """An embedder that can say which characters its tokens stand for."""

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return the characters of each token, first and one after the last; marks of begin and end have (0, 0)."""
        ...


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


def subject_span(text: str, name: str, begin: int | None = None) -> Span:
    """Return the characters of a subject in a text, in whole words and in any case.

    Args:
        text: The prompt.
        name: Of the subject.
        begin: Where it begins. None: its first place.

    Raises:
        UserError: It is not there.
    """
    words = r"\s+".join(map(re.escape, name.split()))
    found = [match.span() for match in re.finditer(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE)] if words else []
    span = next((span for span in found if begin in (None, span[0])), None)
    if span is None:
        where = "" if begin is None else f" at character {begin}"
        raise UserError(
            f"The subject {name!r} does not stand in {text!r}{where}. It must be there in whole words, as it is "
            "written. Write its name into the prompt, or name a word that is there."
        )
    return span


def tokens_of_span(spans: Sequence[Span], span: Span) -> list[int]:
    """Return the places of the tokens that stand for some of the characters.

    By place, not by the number of a token in the vocabulary: the same word elsewhere in the text, and a piece of a word
    that the subject shares with another, stay as they are. (The released code compares numbers.)

    Args:
        spans: Of each token.
        span: Wanted.
    """
    return [place for place, (first, end) in enumerate(spans) if first < end and first < span[1] and span[0] < end]


def subject_tokens(text: str, subjects: Sequence[Subject], spans: Sequence[Span]) -> Bool[Tensor, "subject token"]:
    """Return which tokens of a text stand for which subject.

    Args:
        text: The prompt.
        subjects: In it.
        spans: Of each token that the embedder reads.

    Raises:
        UserError: One does not stand in it, stands where texts are cut, or shares a token with another.
    """
    found = torch.zeros(len(subjects), len(spans), dtype=torch.bool)
    for row, subject in zip(found, subjects, strict=True):
        places = tokens_of_span(spans, subject_span(text, subject.name, subject.begin))
        if not places:
            raise UserError(
                f"The subject {subject.name!r} of {text[:60]!r} stands behind the {len(spans)} tokens that are read. "
                "It must be among them. Write it earlier in the prompt."
            )
        row[places] = True
    shared = found.sum(0) > 1
    if shared.any():
        names = [subject.name for subject, row in zip(subjects, found, strict=True) if (row & shared).any()]
        raise UserError(
            f"The subjects {' and '.join(map(repr, names))} stand for the same words of {text!r}. Each needs words of "
            "its own. Say with begin which of several places is meant."
        )
    return found


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
