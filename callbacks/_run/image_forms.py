"""The forms in which modules return images: what is unambiguous is taken, the rest is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from evolvedirector.errors import RunError

_WRITE = "Return a uint8 tensor (3, height, width), as `(image.clamp(0, 1) * 255).round().to(torch.uint8)` makes it."
_ALLOWED = (
    "Allowed are uint8 (3, height, width) or (height, width, 3), floats from 0 to 1 in the same shapes, and RGB or "
    "grey PIL images."
)


def rgb_image(image: Any) -> Image.Image:
    """Return one image that a module drew, in 8 bits and three channels.

    Args:
        image: A tensor or array, uint8 or floats from 0 to 1, of shape (3, height, width) or (height, width, 3); or a
            PIL image, RGB or grey. Where both shapes fit, the channels come first.

    Raises:
        RunError: It is none of these; with what it is and what to return.
    """
    if isinstance(image, Image.Image):
        if image.mode not in ("RGB", "L"):
            raise RunError(
                f"The module drew a PIL image of mode {image.mode}. {_ALLOWED} Call `.convert('RGB')` on it."
            )
        return image.convert("RGB")
    if not isinstance(image, Tensor | np.ndarray):
        raise RunError(f"The module drew a {type(image).__name__}. {_ALLOWED} {_WRITE}")
    array = _array_of(image)
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]) or not array.size:
        raise RunError(f"The module drew an image of shape {tuple(array.shape)}. {_ALLOWED} {_WRITE}")
    if array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array)))


def _array_of(image: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    image = image.detach().to("cpu")
    return (image.float() if image.is_floating_point() else image).numpy()  # numpy knows no bfloat16


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise RunError(f"The module drew an image of {array.dtype} values. {_ALLOWED} {_WRITE}")
    least, most = float(array.min()), float(array.max())
    if not 0 <= least <= most <= 1:  # NaN is in no range
        raise RunError(f"The module drew an image of floats from {least:.4g} to {most:.4g}. {_ALLOWED} {_WRITE}")
    return np.rint(array * 255).astype(np.uint8)
