"""The seam of a joint embedding: texts and images as vectors of one space, such as a CLIP's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from evolvedirector.records.condition import Tokens
from evolvedirector.records.part import Part

if TYPE_CHECKING:
    from torch import Tensor

TEXT_STATES = "text_states"
"""Role of a sample: Float[Array, "token width"], the states of its prompt's real tokens alone; no padding is kept."""
TEXT_EMBEDDING = "text_embedding"
"""Role of a sample: Float[Array, " embedding"], its prompt in the joint space."""
IMAGE_EMBEDDING = "image_embedding"
"""Role of a sample: Float[Array, " embedding"], its image in the joint space."""
TEXT_MASK = "text_mask"
"""Of a training batch, beside `text_states` padded to one length: Bool[Tensor, "batch token"], true for real tokens."""
SUBJECT_TOKENS = "subject_tokens"
"""Role of a sample with subjects: UInt8[Array, "subject token"], 1 where a real token stands for a subject. In a batch
Bool[Tensor, "batch subject token"], all false behind the last subject of a sample."""
SUBJECT_EMBEDDINGS = "subject_embeddings"
"""Role of a sample with subjects: Float[Array, "subject embedding"], their pictures in the joint space."""
EDGE_EMBEDDING = "edge_embedding"
"""Role of a sample with an edge picture: Float[Array, " embedding"]."""
HAS_EDGE = "has_edge_embedding"
"""Of a training batch, beside `edge_embedding`: Bool[Tensor, " batch"], false where a sample has no edge picture."""


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbeddings:
    """Texts as a joint embedding sees them.

    Args:
        states: Float[batch, token, width] with their mask: one state per token.
        pooled: Float[batch, embedding]: each text in the joint space, not normalised.
        cut: Bool per text: it had more tokens than the model reads, and lost its end.
    """

    states: Tokens
    pooled: Tensor
    cut: tuple[bool, ...]


@runtime_checkable
class Embedder(Part, Protocol):
    """Embed texts and images in one space."""

    @property
    def embedding_dim(self) -> int:
        """Width of the joint space."""
        ...

    @property
    def text_width(self) -> int:
        """Width of a token's state."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, their marks of beginning and end included."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embed texts, on the CPU in float32; the same text gives the same values whatever stands beside it."""
        ...

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """Embed uint8 images (3, height, width) of any sizes, on the CPU in float32: Float[batch, embedding], raw.

        Types are plain here: jsonargparse compares them word for word, and each `Float[...]` is a type of its own.
        """
        ...


@runtime_checkable
class NamedOnCommandLine(Protocol):
    """An embedder that `evolvedirector embed` can build from options."""

    def embed_options(self) -> list[str]:
        """Return the options that build it."""
        ...


@runtime_checkable
class HasEmbedder(Protocol):
    """A module that learns an embedder's space."""

    @property
    def embedder(self) -> Embedder:
        """Whose embeddings it reads."""
        ...
