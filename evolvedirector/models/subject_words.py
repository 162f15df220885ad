"""Which tokens of a text stand for a subject (lambda-ECLIPSE, arXiv:2402.05195)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import torch

from evolvedirector.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

Span: TypeAlias = tuple[int, int]
"""First character, and the one after the last."""


@runtime_checkable
class OffersTokenSpans(Protocol):
    """An embedder that can say which characters its tokens stand for."""

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return the characters of each token, first and one after the last; marks of begin and end have (0, 0)."""
        ...


class Named(Protocol):
    """A subject by its words, such as `NamedSubject`."""

    @property
    def name(self) -> str:
        """As it stands in the prompt."""
        ...

    @property
    def begin(self) -> int | None:
        """Character of the prompt at which it begins. None: where it first stands as whole words."""
        ...


def spans_of(embedder: object, text: str) -> Sequence[Span]:
    """Ask an embedder which characters of a text its tokens stand for.

    Args:
        embedder: Of texts.
        text: The prompt.

    Raises:
        UserError: It cannot say.
    """
    if not isinstance(embedder, OffersTokenSpans):
        raise UserError(
            f"{type(embedder).__name__} has no `token_spans(text)`, so nobody knows which tokens stand for a subject. "
            "Allowed is an embedder that says it. Add the method, or leave subjects out."
        )
    return embedder.token_spans(text)


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


def subject_tokens(text: str, subjects: Sequence[Named], spans: Sequence[Span]) -> Bool[Tensor, "subject token"]:
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
