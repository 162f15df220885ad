"""Embeddings as batches: token states of unequal lengths padded under a mask, and numbers that are finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evolvedirector.datamodules.batches import collate
from evolvedirector.datamodules.requests import RequestLoader
from evolvedirector.errors import UserError
from evolvedirector.models.embedder import (
    EDGE_EMBEDDING,
    HAS_EDGE,
    IMAGE_EMBEDDING,
    SUBJECT_EMBEDDINGS,
    SUBJECT_TOKENS,
    TEXT_EMBEDDING,
    TEXT_MASK,
    TEXT_STATES,
)


@dataclass(frozen=True)
class EmbeddingCollation:
    """Make a batch of decoded samples with embeddings.

    Args:
        text_tokens: Length of the padded token states. None: that of the longest text in the batch.
        subjects: Batches say which tokens stand for subjects, and hold their embeddings.
        edges: Batches hold embeddings of edge pictures, and say who has one.
    """

    text_tokens: int | None = None
    subjects: bool = False
    edges: bool = False

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Stack everything but `text_states`, which are padded behind with zeros, and what only some samples have.

        Args:
            samples: Decoded, each with `text_states` [token, width].

        Returns:
            As `collate` does, with `text_states` float32 [batch, token, width] and `text_mask` bool [batch, token];
            with subjects, as many as the sample with most of them has, `subject_tokens` bool [batch, subject, token]
            and `subject_embeddings` float32 [batch, subject, embedding]; with edges `edge_embedding` float32
            [batch, embedding] and `has_edge_embedding` bool [batch].

        Raises:
            UserError: Widths differ, a text is too long, or a number is not finite.
        """
        states = [sample[TEXT_STATES] for sample in samples]
        self._check(samples, states)
        longest = max(len(each) for each in states)
        length = self.text_tokens or longest
        padded = np.zeros((len(states), length, states[0].shape[1]), np.float32)
        mask = np.zeros((len(states), length), bool)
        for row, each in enumerate(states):
            padded[row, : len(each)] = each
            mask[row, : len(each)] = True
        apart = {TEXT_STATES}  # lengths differ, or not all samples have them
        apart |= {SUBJECT_TOKENS, SUBJECT_EMBEDDINGS} if self.subjects else set()
        apart |= {EDGE_EMBEDDING} if self.edges else set()
        others = [{name: value for name, value in sample.items() if name not in apart} for sample in samples]
        batch = collate(others)
        batch |= {TEXT_STATES: torch.from_numpy(padded), TEXT_MASK: torch.from_numpy(mask)}
        if self.subjects:
            batch |= _subjects(samples, length)
        if self.edges:
            batch |= _edges(samples)
        _check_finite(batch, samples)
        return batch

    def _check(self, samples: Sequence[dict[str, Any]], states: Sequence[np.ndarray]) -> None:
        first = samples[0]
        width, text, image = states[0].shape[-1], first[TEXT_EMBEDDING].shape, first[IMAGE_EMBEDDING].shape
        for sample, each in zip(samples, states, strict=True):
            fits = each.ndim == 2 and each.shape[1] == width
            if not fits or sample[TEXT_EMBEDDING].shape != text or sample[IMAGE_EMBEDDING].shape != image:
                raise UserError(
                    f"The embeddings of the sample {sample['key']!r} have the shapes {_shapes(sample)}, those of "
                    f"{first['key']!r} {_shapes(first)}. Allowed is one embedder for all samples: [token, width] and "
                    "[embedding]. Run `evolvedirector embed ROOT --replace` with the one that is wanted."
                )
            if self.text_tokens is not None and len(each) > self.text_tokens:
                raise UserError(
                    f"The text of the sample {sample['key']!r} has {len(each)} tokens, but text_tokens is "
                    f"{self.text_tokens}. Texts are cut where they are embedded. Write `text_tokens: {len(each)}` or "
                    "more, or leave it out."
                )


def _subjects(samples: Sequence[dict[str, Any]], length: int) -> dict[str, torch.Tensor]:
    """Return the subjects of samples, behind the last one of each rows that stand for no token."""
    most, width = 0, len(samples[0][IMAGE_EMBEDDING])
    for sample in samples:
        if SUBJECT_TOKENS in sample:
            _check_subjects(sample, width)
            most = max(most, len(sample[SUBJECT_TOKENS]))
    tokens = np.zeros((len(samples), most, length), bool)
    embeddings = np.zeros((len(samples), most, width), np.float32)
    for row, sample in enumerate(samples):
        if SUBJECT_TOKENS in sample:
            count, longest = sample[SUBJECT_TOKENS].shape
            tokens[row, :count, :longest] = sample[SUBJECT_TOKENS][:, :length]
            embeddings[row, :count] = sample[SUBJECT_EMBEDDINGS]
    return {SUBJECT_TOKENS: torch.from_numpy(tokens), SUBJECT_EMBEDDINGS: torch.from_numpy(embeddings)}


def _check_subjects(sample: dict[str, Any], width: int) -> None:
    tokens, embeddings = sample[SUBJECT_TOKENS], sample.get(SUBJECT_EMBEDDINGS)
    count, longest = (*tokens.shape, 0, 0)[:2]
    if embeddings is None or tokens.ndim != 2 or embeddings.shape != (count, width):
        given = None if embeddings is None else embeddings.shape
        raise UserError(
            f"The sample {sample['key']!r} has {SUBJECT_TOKENS} of the shape {tokens.shape} and "
            f"{SUBJECT_EMBEDDINGS} of {given}. Allowed are [subject, token] and [subject, {width}]. Run "
            "`evolvedirector embed ROOT --replace`."
        )
    if tokens[:, len(sample[TEXT_STATES]) :].any():
        raise UserError(
            f"The {SUBJECT_TOKENS} of the sample {sample['key']!r} name tokens behind the "
            f"{len(sample[TEXT_STATES])} of its text, of {longest}. Allowed are its own. Run `evolvedirector embed "
            "ROOT --replace`."
        )


def _edges(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return the edges of samples, zeros where there are none."""
    like = np.zeros_like(samples[0][IMAGE_EMBEDDING], np.float32)
    found = [sample.get(EDGE_EMBEDDING, like) for sample in samples]
    for sample, values in zip(samples, found, strict=True):
        if values.shape != like.shape:
            raise UserError(
                f"The {EDGE_EMBEDDING} of the sample {sample['key']!r} has the shape {values.shape}. Allowed is that "
                f"of its image, {like.shape}. Run `evolvedirector embed ROOT --replace`."
            )
    has = torch.tensor([EDGE_EMBEDDING in sample for sample in samples])
    return {EDGE_EMBEDDING: torch.from_numpy(np.stack(found).astype(np.float32)), HAS_EDGE: has}


def _shapes(sample: dict[str, Any]) -> str:
    return ", ".join(f"{role} {tuple(sample[role].shape)}" for role in (TEXT_STATES, TEXT_EMBEDDING, IMAGE_EMBEDDING))


def _check_finite(batch: dict[str, Any], samples: Sequence[dict[str, Any]]) -> None:
    for role in (TEXT_STATES, TEXT_EMBEDDING, IMAGE_EMBEDDING, SUBJECT_EMBEDDINGS, EDGE_EMBEDDING):
        if role not in batch:
            continue
        if torch.isfinite(batch[role].sum()):  # one number for all: a sum of finite float32 of CLIP's size is finite
            continue
        broken = [sample["key"] for sample in samples if role in sample and not np.isfinite(sample[role]).all()]
        if broken:
            raise UserError(
                f"The {role} of the sample {broken[0]!r} has numbers that are not finite. Allowed are finite ones. Run "
                "`evolvedirector embed ROOT --replace` with an embedder in float32, or retire the sample."
            )


class PairsBehindRequests:
    """Requests for images, and behind them pairs to measure on, as one sized loader.

    Args:
        requests: For held-out prompts; may be none.
        batches: Number of the batches of pairs.
        read: Reads them.
    """

    def __init__(self, requests: RequestLoader, batches: int, read: Callable[[], Iterator[dict[str, Any]]]) -> None:
        self._requests = requests
        self._batches = batches
        self._read = read

    def __len__(self) -> int:
        return len(self._requests) + self._batches

    def __iter__(self) -> Iterator[Any]:
        yield from self._requests
        yield from self._read()
