"""What a prior reads of batches and requests: texts, the subjects that come with them, and edge pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.priors.prior_condition import (
    PriorCondition,
    condition_of_batch,
    condition_of_texts,
)
from evolvedirector.lightning_modules.priors.prior_objective import edges_lost
from evolvedirector.lightning_modules.priors.subject_states import Subject
from evolvedirector.models.embedder import HAS_EDGE, Embedder
from evolvedirector.records import FileRef, ImageRequest, LossRequest
from evolvedirector.records.part import close_parts
from evolvedirector.records.prompt_subjects import EDGE, SUBJECT_IMAGES, SUBJECTS, NamedSubject, read_subjects
from evolvedirector.store.files import decode_file, extension_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

Request = ImageRequest | LossRequest


@dataclass
class ConditionReader:
    """Make conditions with a frozen embedder, and keep those that are the same for everybody.

    Args:
        embedder: Of texts and pictures.
        text_length: Tokens of every condition, so that an image does not depend on what stands beside it.
        reads_edges: Whether the network does.
        black_px: Side of the black picture that stands for no edges.
        edge_dropout: Share of training samples that lose their edges.

    Raises:
        UserError: The share is out of range, or a network without edges would lose some.
    """

    embedder: Embedder
    text_length: int
    reads_edges: bool
    black_px: int
    edge_dropout: float = 0.0
    _empty: PriorCondition | None = field(default=None, repr=False)
    _black: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.edge_dropout < 1 or (self.edge_dropout and not self.reads_edges):
            raise UserError(
                f"edge_dropout is {self.edge_dropout} and reads_edges {str(self.reads_edges).lower()}. Allowed are 0 "
                "to under 1, and 0 alone for a network without edges. Write edge_dropout: 0.01 beside network: "
                "{reads_edges: true}."
            )

    def of_batch(self, batch: Mapping[str, Any], seeds: Int64[Tensor, " batch"] | None = None) -> PriorCondition:
        """Return what the network reads of a batch; samples without an edge picture read a black one.

        Args:
            batch: For training or validation.
            seeds: Of samples that are trained on: some lose their edges. None: none does.
        """
        condition = condition_of_batch(batch)
        if condition.edge_embedding is None or not (HAS_EDGE in batch or self.edge_dropout):
            return condition
        lost = torch.zeros_like(condition.text_mask[:, 0])
        if HAS_EDGE in batch:
            lost = lost | ~batch[HAS_EDGE]
        if self.edge_dropout and seeds is not None:
            lost = lost | edges_lost(seeds, self.edge_dropout).to(lost.device)
        black = self.no_edges().to(condition.edge_embedding)
        edges = torch.where(lost[:, None], black, condition.edge_embedding)
        return replace(condition, edge_embedding=edges)

    def of_requests(
        self,
        requests: Sequence[Request],
        subjects: Sequence[Sequence[Subject]] | None = None,
        edges: Float[Tensor, "batch embedding"] | None = None,
    ) -> PriorCondition:
        """Return what the network reads of requests, on the CPU, all of one length whatever stands beside them.

        Args:
            requests: With the files `subjects`, `subject` ... and `edge`, or without.
            subjects: Of each, in place of those of its files. None: those.
            edges: Embedding of an edge picture for each, likewise.

        Raises:
            UserError: A subject does not stand in its prompt, nobody says which tokens stand for it, or a request has
                edges that the network does not read.
        """
        texts = [request.prompt for request in requests]
        if subjects is None:
            subjects = [self._subjects_of(request) for request in requests]
        if edges is None:
            edges = self._edges_of(requests)
        condition = condition_of_texts(self.embedder.embed_texts(texts), edges).padded(self.text_length)
        return condition.with_subjects(texts, subjects, self.embedder) if any(subjects) else condition

    def empty_text(self) -> PriorCondition:
        """Return the condition of the empty text, one row."""
        if self._empty is None:
            self._empty = condition_of_texts(self.embedder.embed_texts([""]))
        return self._empty

    def no_edges(self) -> Float[Tensor, "1 embedding"]:
        """Return the embedding of a black picture; training needs the embedder's pictures for nothing else."""
        if self._black is None:
            black = torch.zeros(3, self.black_px, self.black_px, dtype=torch.uint8)
            self._black = self.embedder.embed_images([black])
            close_parts(self.embedder)
        return self._black

    def _subjects_of(self, request: Request) -> list[Subject]:
        named = named_subjects(request)
        if not named:
            return []
        pictures = [_picture(request, role) for role in SUBJECT_IMAGES[: len(named)]]
        embeddings = self.embedder.embed_images(pictures)
        return [Subject(one.name, row, one.begin) for one, row in zip(named, embeddings, strict=True)]

    def _edges_of(self, requests: Sequence[Request]) -> Tensor | None:
        given = [place for place, request in enumerate(requests) if EDGE in request.files]
        if not self.reads_edges:
            if given:
                raise UserError(
                    f"The request {requests[given[0]].prompt[:80]!r} has a picture of edges, but this prior has "
                    "reads_edges: false. Both must agree. Leave the edges out, or train a prior that reads them."
                )
            return None
        edges = self.no_edges().repeat(len(requests), 1)
        if given:
            edges[given] = self.embedder.embed_images([_picture(requests[place], EDGE) for place in given])
        return edges


def named_subjects(request: Request) -> tuple[NamedSubject, ...]:
    """Read the names of a request's subjects; none where it has none.

    Args:
        request: With files.

    Raises:
        UserError: Names and pictures do not fit each other.
    """
    of = f"The request {request.prompt[:80]!r}"
    if SUBJECTS in request.files:
        return read_subjects(_decoded(request, SUBJECTS), request.files, of)
    if lone := [role for role in SUBJECT_IMAGES if role in request.files]:
        raise UserError(
            f"{of} has a {lone[0]} and no names. Allowed are pictures of subjects beside their names. Give the file "
            f"{SUBJECTS}, a JSON list of names, too."
        )
    return ()


def _picture(request: Request, role: str) -> Tensor:
    pixels = _decoded(request, role)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 3:
        raise UserError(
            f"The {role} of {request.prompt[:80]!r} is {request.files[role].media_type}. Allowed is a picture: png, "
            "jpeg or webp. Give one."
        )
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def _decoded(request: Request, role: str) -> object:
    file: FileRef = request.files[role]
    if file.content is None:
        raise UserError(
            f"The {role} of {request.prompt[:80]!r} comes without its content. A request must bring its files. Write "
            f"files={{{role!r}: FileRef.of(content, media_type)}}."
        )
    return decode_file(file.content, extension_of(file.media_type), role)
