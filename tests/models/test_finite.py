"""Finite weights are told from others, in every type that weights come in."""

from __future__ import annotations

import pytest
import torch

from evolvedirector.models.finite import all_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_one_value_among_many_is_found(dtype: torch.dtype) -> None:
    good = [torch.ones(5), torch.ones(3, 4).to(dtype), torch.zeros(0), torch.arange(3)]
    assert all_finite(good) and all_finite([])
    bad = torch.ones(3, 4)
    bad[1, 2] = torch.nan
    assert not all_finite([*good, bad.to(dtype)])


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_infinities_count_and_large_finite_values_do_not(value: float) -> None:
    assert all_finite([torch.full((4,), 3e38), torch.full((4,), 60000.0, dtype=torch.float16)])
    assert not all_finite([torch.full((4,), 3e38), torch.tensor([1.0, value])])
