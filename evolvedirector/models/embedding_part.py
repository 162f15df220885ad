"""An embedder as the part that an executor asks: one answer per request, as the roles of a sample hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evolvedirector.errors import UserError
from evolvedirector.models.embedder import IMAGE_EMBEDDING, TEXT_EMBEDDING, TEXT_STATES, Embedder
from evolvedirector.models.subject_words import spans_of, subject_tokens
from evolvedirector.records.part import close_parts
from evolvedirector.records.prompt_subjects import NamedSubject
from evolvedirector.store.images import decode_image


@dataclass(frozen=True, slots=True)
class TextToEmbed:
    """A text that is to be embedded.

    Args:
        request_id: Names it.
        text: The text.
    """

    request_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ImageToEmbed:
    """An image that is to be embedded.

    Args:
        request_id: Names it.
        image: PNG, JPEG or WebP bytes.
    """

    request_id: str
    image: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """What an embedder said.

    Args:
        request_id: Of the question.
        arrays: By role: `text_states` float16 [token, width] of real tokens, `text_embedding` and `image_embedding`
            float32 [embedding].
        cut: A text had more tokens than the model reads.
    """

    request_id: str
    arrays: Mapping[str, np.ndarray]
    cut: bool = False


class EmbeddingPart:
    """Ask an embedder as other parts of a round are asked: in any process, one reply per request.

    Args:
        embedder: The joint embedding.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def fingerprint(self) -> str:
        """Name the embedder."""
        return self._embedder.fingerprint

    def texts(self, requests: Sequence[TextToEmbed]) -> Iterator[Embedded]:
        """Yield the embedding of each text, in order.

        Args:
            requests: The texts.

        Raises:
            UserError: A number is not finite, or too large for float16.
        """
        found = self._embedder.embed_texts([request.text for request in requests])
        for row, request in enumerate(requests):
            states = found.states.values[row][found.states.mask[row]].to(torch.float16)
            arrays = {TEXT_STATES: states.numpy(), TEXT_EMBEDDING: found.pooled[row].float().numpy()}
            _check_finite(arrays, f"text {request.text[:80]!r}")
            yield Embedded(request.request_id, arrays, found.cut[row])

    def images(self, requests: Sequence[ImageToEmbed]) -> Iterator[Embedded]:
        """Yield the embedding of each image, in order.

        Args:
            requests: The images.

        Raises:
            StoreError: One cannot be decoded.
            UserError: A number is not finite.
        """
        images = [torch.from_numpy(decode_image(request.image).copy()).permute(2, 0, 1) for request in requests]
        for request, values in zip(requests, self._embedder.embed_images(images), strict=True):
            arrays = {IMAGE_EMBEDDING: values.float().numpy()}
            _check_finite(arrays, f"image {request.request_id}")
            yield Embedded(request.request_id, arrays)

    def places(self, text: str, subjects: Sequence[NamedSubject]) -> np.ndarray:
        """Return which of a text's real tokens stand for which subject, UInt8[subject, token].

        Args:
            text: The prompt.
            subjects: In it.

        Raises:
            UserError: One does not stand in it, or the embedder cannot say where.
        """
        found = subject_tokens(text, subjects, spans_of(self._embedder, text))
        return found.numpy().astype(np.uint8)

    def close(self) -> None:
        """Let the embedder free its memory."""
        close_parts(self._embedder)


def _check_finite(arrays: Mapping[str, np.ndarray], what: str) -> None:
    for role, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"The {role} of the {what} has numbers that are not finite as {array.dtype}. Allowed are finite ones, "
                "up to 65504 for text_states. Take another embedder, or load it in float32."
            )
