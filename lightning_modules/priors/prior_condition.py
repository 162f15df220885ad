"""What a prior reads beside noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules.priors.subject_states import Subject, put_subjects
from evolvedirector.models.embedder import (
    EDGE_EMBEDDING,
    IMAGE_EMBEDDING,
    SUBJECT_EMBEDDINGS,
    SUBJECT_TOKENS,
    TEXT_EMBEDDING,
    TEXT_MASK,
    TEXT_STATES,
    TextEmbeddings,
)
from evolvedirector.models.subject_words import spans_of, subject_tokens


@dataclass(frozen=True, slots=True, eq=False)
class PriorCondition:
    """Describe what images are wanted, one row per image.

    Args:
        text_embedding: Float[batch, embedding].
        text_states: Float[batch, token, width], padded.
        text_mask: Bool[batch, token]; false is padding.
        edge_embedding: Float[batch, embedding]. None: the prior reads no edges.
    """

    text_embedding: Tensor
    text_states: Tensor
    text_mask: Tensor
    edge_embedding: Tensor | None = None

    def to(self, device: torch.device) -> PriorCondition:
        """Move it to a device, values in float32.

        Args:
            device: Where it is wanted.
        """
        edges = self.edge_embedding
        return PriorCondition(
            self.text_embedding.to(device, torch.float32),
            self.text_states.to(device, torch.float32),
            self.text_mask.to(device),
            None if edges is None else edges.to(device, torch.float32),
        )

    def without_text(self, null: PriorCondition, lost: Tensor) -> PriorCondition:
        """Return it with the empty text in some rows; edges stay.

        Args:
            null: One row: the empty text.
            lost: Bool[batch]: which rows.
        """
        length = max(self.text_mask.shape[1], null.text_mask.shape[1])
        own, empty = self.padded(length), null.padded(length)
        return PriorCondition(
            torch.where(lost[:, None], empty.text_embedding, own.text_embedding),
            torch.where(lost[:, None, None], empty.text_states, own.text_states),
            torch.where(lost[:, None], empty.text_mask, own.text_mask),
            self.edge_embedding,
        )

    def with_subjects(
        self, texts: Sequence[str], subjects: Sequence[Sequence[Subject]], embedder: object
    ) -> PriorCondition:
        """Return it with the embeddings of subjects' images in the place of their tokens' states.

        Args:
            texts: The prompts.
            subjects: Of each.
            embedder: Made the states; says which characters its tokens stand for.

        Raises:
            UserError: A subject does not stand in its prompt, or the embedder cannot say where.
        """
        most = max(map(len, subjects), default=0)
        if not most:
            return self
        tokens = torch.zeros(len(texts), most, self.text_mask.shape[1], dtype=torch.bool)
        embeddings = torch.zeros(len(texts), most, self.text_embedding.shape[1])
        for row, (text, named) in enumerate(zip(texts, subjects, strict=True)):
            found = subject_tokens(text, named, spans_of(embedder, text) if named else [])
            tokens[row, : len(named), : found.shape[1]] = found
            for place, subject in enumerate(named):
                embeddings[row, place] = subject.embedding
        states = put_subjects(self.text_states, tokens, embeddings)
        return PriorCondition(self.text_embedding, states, self.text_mask, self.edge_embedding)

    def padded(self, length: int) -> PriorCondition:
        """Return it with texts of at least so many tokens.

        Args:
            length: In tokens.
        """
        short = max(0, length - self.text_mask.shape[1])
        states, mask = F.pad(self.text_states, (0, 0, 0, short)), F.pad(self.text_mask, (0, short))
        return PriorCondition(self.text_embedding, states, mask, self.edge_embedding)

    def beside(self, null: PriorCondition) -> PriorCondition:
        """Return its rows, then as many of the empty text, for guidance; edges are repeated.

        Args:
            null: One row: the empty text.
        """
        empty = self.without_text(null, torch.ones_like(self.text_mask[:, 0]))
        own = self.padded(empty.text_mask.shape[1])
        edges = None if own.edge_embedding is None else torch.cat([own.edge_embedding, own.edge_embedding])
        return PriorCondition(
            torch.cat([own.text_embedding, empty.text_embedding]),
            torch.cat([own.text_states, empty.text_states]),
            torch.cat([own.text_mask, empty.text_mask]),
            edges,
        )


def condition_of_texts(texts: TextEmbeddings, edge_embedding: Tensor | None = None) -> PriorCondition:
    """Return the condition that an embedder's answer makes.

    Args:
        texts: Embedded.
        edge_embedding: Float[batch, embedding]. None: the prior reads no edges.
    """
    return PriorCondition(texts.pooled, texts.states.values, texts.states.mask, edge_embedding)


def condition_of_batch(batch: Mapping[str, Any]) -> PriorCondition:
    """Return the condition of a training batch.

    Args:
        batch: With `text_states`, `text_mask`, `text_embedding`, and perhaps `edge_embedding`, or `subject_tokens` with
            `subject_embeddings`, which take the place of those tokens' states.

    Raises:
        UserError: One of the first three is missing, the mask is not bool, or subjects do not fit the states.
    """
    missing = [name for name in (TEXT_EMBEDDING, TEXT_STATES, TEXT_MASK) if batch.get(name) is None]
    if missing:
        raise UserError(
            f"The training batch has no {missing[0]}. A prior reads text_embedding, text_states and text_mask, and "
            "without a mask padding would count as text. Embed the samples with `evolvedirector embed`, or let the "
            "collate function add it."
        )
    if batch[TEXT_MASK].dtype != torch.bool:
        raise UserError(
            f"text_mask is {batch[TEXT_MASK].dtype}. It must be bool, true for real tokens. Write text_mask.bool()."
        )
    states = batch[TEXT_STATES]
    if SUBJECT_TOKENS in batch:
        states = put_subjects(states, batch[SUBJECT_TOKENS], batch[SUBJECT_EMBEDDINGS].to(states.dtype))
    return PriorCondition(batch[TEXT_EMBEDDING], states, batch[TEXT_MASK], batch.get(EDGE_EMBEDDING))


def check_pairs(batch: Mapping[str, Any], embedding_dim: int) -> None:
    """Refuse pairs that a prior cannot be trained on.

    States are not read through, they are a hundred times larger, and on a GPU nothing is: a look would wait for it.
    There the loss of a sample says that it is not finite.

    Args:
        batch: For training or validation.
        embedding_dim: Width of the network's embeddings.

    Raises:
        UserError: An embedding is missing, has another width, or is not finite; or there is no mask.
    """
    condition_of_batch(batch)
    for role in (IMAGE_EMBEDDING, TEXT_EMBEDDING, EDGE_EMBEDDING, SUBJECT_EMBEDDINGS):
        values = batch.get(role)
        if values is None and role in (IMAGE_EMBEDDING, TEXT_EMBEDDING):
            raise UserError(
                f"The training batch has no {role}. A prior learns from pairs of text and image embeddings. Embed the "
                "samples with `evolvedirector embed`."
            )
        if values is None:
            continue
        if values.shape[-1] != embedding_dim:
            raise UserError(
                f"{role} of the training batch has the width {values.shape[-1]}, but the prior's is {embedding_dim}. "
                "Both must come from one embedder. Embed the samples with the configured one, or write network: "
                f"{{embedding_dim: {values.shape[-1]}}}."
            )
        # one pass over memory; where the sum overflows, the next look decides
        if values.device.type != "cpu" or values.sum().isfinite():
            continue
        finite = values.isfinite().flatten(1).all(-1).tolist()
        if not all(finite):
            names = batch.get("key") or batch.get("prompt") or range(len(finite))
            bad = [str(name) for name, is_finite in zip(names, finite, strict=True) if not is_finite]
            raise UserError(
                f"{role} of {bad[0]!r} is not finite ({len(bad)} of {len(finite)} in this batch). An embedding is made "
                "of finite numbers. Embed those samples again in float32."
            )
