"""The seam of patch features: what a refiner matches by and identity is measured in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from evolvedirector.errors import UserError


@runtime_checkable
class PatchEncoder(Protocol):
    """Turn pictures into a grid of features each: DINO-type models by name, EfficientNet or raw patches offline."""

    @property
    def fingerprint(self) -> str:
        """Name the model and every parameter that changes its features."""
        ...

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [images, rows, columns, width].

        Args:
            images: uint8 [height, width, 3], all of one size.
        """
        ...


def check_widths(first: np.ndarray, second: np.ndarray) -> None:
    """Refuse to compare features of different width.

    Args:
        first: float [..., width].
        second: float [..., width].

    Raises:
        UserError: They come from different models.
    """
    if first.shape[-1] != second.shape[-1]:
        raise UserError(
            f"Patch features of {first.shape[-1]} and of {second.shape[-1]} values cannot be compared. Allowed are"
            " features of one encoder. Encode reference and picture with the same one."
        )


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine of each feature with each other.

    Args:
        first: float [n, width].
        second: float [m, width].

    Returns:
        float [n, m]; 0 where a feature is zero.

    Raises:
        UserError: Their widths differ.
    """
    check_widths(first, second)
    normed = [f / np.maximum(np.linalg.norm(f, axis=-1, keepdims=True), 1e-8) for f in (first, second)]
    return np.asarray(normed[0] @ normed[1].T)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of two grids of features as a whole; 0 where one is zero.

    Raises:
        UserError: Their widths differ.
    """
    check_widths(first, second)
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.vdot(first, second)) / norm if norm else 0.0
