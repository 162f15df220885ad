"""Tokens of references: any order of patches, any number of references."""

from __future__ import annotations

import pytest
import torch

from evolvedirector.lightning_modules.subjects.placement import grid_coordinates
from evolvedirector.lightning_modules.subjects.resampler import Resampler


def made(grid: int | None) -> tuple[Resampler, list[torch.Tensor]]:
    torch.manual_seed(0)
    coordinates = grid_coordinates(3, 3, torch.device("cpu")).expand(2, -1, -1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 4] = False
    inputs = [torch.randn(2, 9, 7), coordinates, torch.zeros(2, 9, dtype=torch.int64), mask]
    return Resampler(7, 8, grid, layers=2, heads=2, references=4), inputs


def test_a_grid_of_tokens_does_not_depend_on_the_order_of_patches() -> None:
    resampler, inputs = made(2)
    order = torch.randperm(9)
    tokens, places, mask = resampler(*inputs)
    turned = resampler(*(part[:, order] for part in inputs))
    assert tokens.shape == (2, 4, 8) and mask.all()
    assert places[0].tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert torch.allclose(tokens, turned[0], atol=1e-5)


def test_one_token_per_patch_keeps_the_order_of_its_patches() -> None:
    resampler, inputs = made(None)
    order = torch.randperm(9)
    found, turned = resampler(*inputs), resampler(*(part[:, order] for part in inputs))
    for before, after in zip(found, turned, strict=True):
        assert torch.allclose(before[:, order].float(), after.float(), atol=1e-5)


@pytest.mark.parametrize("grid", [None, 2])
def test_a_patch_that_is_masked_changes_no_token_of_its_row(grid: int | None) -> None:
    resampler, inputs = made(grid)
    before = resampler(*inputs)[0]
    other = [inputs[0].clone(), *inputs[1:]]
    other[0][:, 4] += torch.randn(7)
    after = resampler(*other)[0]
    kept = torch.arange(before.shape[1]) != (4 if grid is None else -1)
    assert torch.allclose(before[0, kept], after[0, kept], atol=1e-5)
    assert not torch.allclose(before[1, kept], after[1, kept], atol=1e-3)


def test_a_row_without_references_gives_finite_tokens_that_do_not_count() -> None:
    resampler, inputs = made(2)
    inputs[3][1] = False
    tokens, _, mask = resampler(*inputs)
    assert tokens.isfinite().all() and mask.any(1).tolist() == [True, False]
