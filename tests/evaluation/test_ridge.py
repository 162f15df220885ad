"""Ridge regression in closed form."""

from __future__ import annotations

import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.evaluation.ridge import ridge


def test_a_linear_map_with_offset_is_found_again() -> None:
    generator = torch.Generator().manual_seed(0)
    texts, weights = torch.randn(60, 8, generator=generator), torch.randn(8, 8, generator=generator)
    images = texts @ weights + 3.0
    new = torch.randn(5, 8, generator=generator)
    assert torch.allclose(ridge(texts, images, 1e-6)(new), new @ weights + 3.0, atol=1e-3)


def test_a_large_penalty_leaves_the_mean() -> None:
    texts, images = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [4.0]])
    assert torch.allclose(ridge(texts, images, 1e9)(torch.tensor([[5.0]])), torch.tensor([[3.0]]), atol=1e-5)
    # by hand: W = sum x y / (sum x^2 + penalty) = 1 / (0.5 + 0.5)
    assert ridge(texts, images, 0.5)(torch.tensor([[1.5]])).item() == pytest.approx(4.0)


def test_no_pairs_and_a_negative_penalty_are_refused() -> None:
    with pytest.raises(UserError, match="of 0 pairs"):
        ridge(torch.zeros(0, 2), torch.zeros(0, 2), 1.0)
    with pytest.raises(UserError, match="penalty -1"):
        ridge(torch.zeros(1, 2), torch.zeros(1, 2), -1.0)
