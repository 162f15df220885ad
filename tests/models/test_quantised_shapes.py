"""A quantised layer without values is as large as the one that bitsandbytes makes."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from evolvedirector.models.quantised import constant_bytes, quantise


@pytest.mark.parametrize("how", ["nf4", "int8"])
@pytest.mark.parametrize("shape", [(64, 96), (576, 1152)])
def test_a_layer_is_weighed_to_the_byte(how: Literal["nf4", "int8"], shape: tuple[int, int]) -> None:
    pytest.importorskip("bitsandbytes")
    made = nn.Sequential(nn.Linear(*shape), nn.Linear(*shape, bias=False)).requires_grad_(False)
    weighed = nn.Sequential(nn.Linear(*shape), nn.Linear(*shape, bias=False)).to("meta").requires_grad_(False)
    for layers in (made, weighed):
        quantise(layers, [layers], how, torch.float32, torch.device("cpu"))
    held = sum(part.nbytes for part in made.parameters()) + constant_bytes(made)
    assert sum(part.nbytes for part in [*weighed.parameters(), *weighed.buffers()]) == held
    values = 2 * shape[0] * shape[1]
    assert 8 * held / values < (4.8 if how == "nf4" else 9.1) or shape == (64, 96)  # bits a value
