"""What the text states and latents of a run take on disk."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class CachesTexts(Protocol):
    """A student that keeps the states of its training prompts on disk."""

    text_cache_gib: float

    def text_bytes(self) -> int:
        """Return what the states of one prompt take at most."""
        ...


@runtime_checkable
class CachesLatents(Protocol):
    """A student that keeps the latents of its training images on disk."""

    latent_cache_gib: float

    def latent_bytes(self) -> int:
        """Return what the latents of one image take; 0 where there is no latent space."""
        ...


def text_states_bytes(bytes_per_text: int, texts: int, max_bytes: int) -> int:
    """Return what the states of all texts take at most: the cache stops writing at its cap.

    Args:
        bytes_per_text: Of a text of full length.
        texts: Different prompts that are trained on.
        max_bytes: Cap of the cache.
    """
    return min(bytes_per_text * texts, max_bytes)
