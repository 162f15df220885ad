"""Conditions: padded and batched in one place, selected, repeated and moved."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from evolvedirector.records.condition import Condition, Tokens, join

CPU = torch.device("cpu")


def condition(tokens: int, value: float, rows: int = 1) -> Condition:
    states = torch.full((rows, tokens, 2), value)
    return Condition(
        {"text": Tokens(states, torch.ones(rows, tokens, dtype=torch.bool))},
        {"pooled": torch.full((rows, 3), value)},
        {"mask": torch.full((rows, 1, 2, 4), value)},
    )


def test_texts_of_different_length_are_padded_and_masked() -> None:
    both = join([condition(2, 1.0), condition(4, 2.0, rows=2)])
    assert both.count == 3
    text = both.tokens["text"]
    assert text.mask.tolist() == [[True, True, False, False], [True] * 4, [True] * 4]
    assert text.values[:, :, 0].tolist() == [[1, 1, 0, 0], [2] * 4, [2] * 4]
    assert both.vectors["pooled"][:, 0].tolist() == [1, 2, 2] and both.spatial["mask"].shape == (3, 1, 2, 4)


def test_a_field_can_have_a_length_of_its_own_but_cuts_nothing() -> None:
    assert join([condition(2, 1.0)], {"text": 5}).tokens["text"].mask.tolist() == [[True, True, False, False, False]]
    with pytest.raises(ValueError, match="Write a length of 2 or more"):
        join([condition(2, 1.0)], {"text": 1})


def test_rows_are_selected_and_one_is_repeated() -> None:
    three = join([condition(2, value) for value in (1.0, 2.0, 3.0)])
    assert three.select([2, 0, 2]).vectors["pooled"][:, 0].tolist() == [3, 1, 3]
    assert three.select(slice(1, 2)).repeat(4).tokens["text"].values[:, 0, 0].tolist() == [2] * 4
    with pytest.raises(ValueError, match=r"condition\.select"):
        three.repeat(2)


def test_only_floating_point_fields_change_their_precision() -> None:
    moved = condition(2, 1.0).to(CPU, torch.bfloat16)
    assert moved.tokens["text"].values.dtype == moved.spatial["mask"].dtype == torch.bfloat16
    assert moved.tokens["text"].mask.dtype == torch.bool


def test_what_cannot_be_one_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'vectors': \['pooled'\].*'vectors': \[\]"):
        join([condition(2, 1.0), Condition(condition(2, 1.0).tokens, {}, condition(2, 1.0).spatial)])
    with pytest.raises(ValueError, match="different numbers of rows"):
        Condition({}, {"pooled": torch.zeros(2, 3), "size": torch.zeros(3, 2)})


@pytest.mark.parametrize("mask", [torch.ones(1, 2), torch.ones(1, 3, dtype=torch.bool)])
def test_a_mask_is_bool_and_fits_its_states(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"mask\.bool"):
        Tokens(torch.zeros(1, 2, 4), mask)


def test_records_are_imported_without_torch() -> None:
    code = "import sys, evolvedirector.records; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
