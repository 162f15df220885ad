"""Ridge regression from text to image embeddings: the arm that a learned prior has to beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evolvedirector.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float


def ridge(
    texts: Float[Tensor, "pair embedding"], images: Float[Tensor, "pair embedding"], penalty: float
) -> Callable[[Tensor], Tensor]:
    """Return the linear map with offset that brings texts nearest to images, in closed form.

    It minimises |(X - mean X) W - (Y - mean Y)|^2 + penalty |W|^2. A prior is only worth its training where it beats
    this.

    Args:
        texts: Of the training pairs.
        images: Of the same pairs.
        penalty: On the map; 0 is least squares.

    Raises:
        UserError: No pairs, or a negative penalty.
    """
    if not len(texts) or not penalty >= 0:
        raise UserError(
            f"Ridge regression of {len(texts)} pairs with penalty {penalty}. Allowed are pairs and a penalty of 0 or "
            "more. Write penalty=1.0."
        )
    x, y = texts.double(), images.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = (x - x_mean).T @ (x - x_mean) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.lstsq(gram, (x - x_mean).T @ (y - y_mean)).solution
    return lambda given: ((given.double() - x_mean) @ weights + y_mean).to(given.dtype)
