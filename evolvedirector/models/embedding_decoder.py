"""The seam of a decoder that draws images from image embeddings, such as unCLIP's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from evolvedirector.records import ImageRequest
from evolvedirector.records.part import Part

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class EmbeddingDecoder(Part, Protocol):
    """Draw what image embeddings say."""

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings that it reads."""
        ...

    @property
    def embedder_fingerprint(self) -> str | None:
        """Fingerprint of the only embedder whose space it reads; None where that is not recorded."""
        ...

    def to(self, device: Any) -> Any:
        """Move it to a device."""
        ...

    # Tensor: jsonargparse wants equal annotations, and two of jaxtyping with the same words are not.
    def decode(self, embeddings: Tensor, negative: Tensor | None, requests: Sequence[ImageRequest]) -> list[Tensor]:
        """Draw one uint8 image (3, height, width) per embedding, on the CPU.

        Args:
            embeddings: Float[batch, embedding], raw, not normalised, as `Embedder.embed_images` gives them.
            negative: Float[batch, embedding], what guidance leads away from. None: the decoder's own.
            requests: Give size and seed of each; a decoder that reads text as well takes their prompts.
        """
        ...
