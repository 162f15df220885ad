"""What a prior reads beside noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evolvedirector.errors import UserError
from evolvedirector.models.embedder import IMAGE_EMBEDDING, TEXT_EMBEDDING, TEXT_MASK, TEXT_STATES, TextEmbeddings

EDGE_EMBEDDING = "edge_embedding"
"""Of a training batch: Float[batch, embedding], the embedding of an edge image."""


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
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {
            name: None if value is None else value.to(device, None if value.dtype == torch.bool else torch.float32)
            for name, value in values.items()
        }
        return PriorCondition(**moved)

    def without_text(self, null: PriorCondition, dropped: Sequence[bool]) -> PriorCondition:
        """Return it with the empty text in some rows; edges stay.

        Args:
            null: One row: the empty text.
            dropped: Which rows.
        """
        length = max(self.text_mask.shape[1], null.text_mask.shape[1])
        own, empty = self.padded(length), null.padded(length)
        lost = torch.tensor(dropped, device=self.text_mask.device)
        return PriorCondition(
            torch.where(lost[:, None], empty.text_embedding, own.text_embedding),
            torch.where(lost[:, None, None], empty.text_states, own.text_states),
            torch.where(lost[:, None], empty.text_mask, own.text_mask),
            self.edge_embedding,
        )

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
        count = len(self.text_embedding)
        empty = self.without_text(null, [True] * count)
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
        batch: With `text_states`, `text_mask`, `text_embedding` and perhaps `edge_embedding`.

    Raises:
        UserError: One of the first three is missing, or the mask is not bool.
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
    return PriorCondition(batch[TEXT_EMBEDDING], batch[TEXT_STATES], batch[TEXT_MASK], batch.get(EDGE_EMBEDDING))


def check_pairs(batch: Mapping[str, Any], embedding_dim: int) -> None:
    """Refuse pairs that a prior cannot be trained on.

    States are not read through, they are a hundred times larger; where one is not finite, the loss of its sample says
    so.

    Args:
        batch: For training or validation, on the CPU.
        embedding_dim: Width of the network's embeddings.

    Raises:
        UserError: An embedding is missing, has another width, or is not finite; or there is no mask.
    """
    condition_of_batch(batch)
    for role in (IMAGE_EMBEDDING, TEXT_EMBEDDING, EDGE_EMBEDDING):
        values = batch.get(role)
        if values is None and role != EDGE_EMBEDDING:
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
        finite = values.isfinite().all(-1).tolist()
        if not all(finite):
            names = batch.get("key") or batch.get("prompt") or range(len(finite))
            bad = [str(name) for name, is_finite in zip(names, finite, strict=True) if not is_finite]
            raise UserError(
                f"{role} of {bad[0]!r} is not finite ({len(bad)} of {len(finite)} in this batch). An embedding is made "
                "of finite numbers. Embed those samples again in float32."
            )
