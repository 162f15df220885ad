"""Connected components in plain numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def label_components(classes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Give every connected area of equal class one label, by letting the smallest pixel number spread.

    Neighbours share an edge. A pass takes the minimum over the four neighbours of equal class and then follows each
    label to the label at that place (pointer jumping), so the passes grow with the logarithm of the area's diameter.

    Args:
        classes: height x width; negative values are background.

    Returns:
        height x width: the number of the area's first pixel, -1 on background.
    """
    height, width = classes.shape
    inside = classes >= 0
    right = inside[:, 1:] & (classes[:, 1:] == classes[:, :-1])
    down = inside[1:] & (classes[1:] == classes[:-1])
    labels = np.arange(height * width).reshape(height, width)
    while True:
        before = labels.copy()
        for first, second, joined in (
            (labels[:, :-1], labels[:, 1:], right),
            (labels[:-1], labels[1:], down),
        ):
            least = np.minimum(first, second)
            # minimum, not copy: the two views overlap, and a copy would undo the other's step
            np.minimum(first, least, out=first, where=joined)
            np.minimum(second, least, out=second, where=joined)
        labels = labels.ravel()[labels]
        if np.array_equal(labels, before):
            return np.where(inside, labels, -1)
