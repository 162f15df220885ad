"""Decoupled attention by hand, and what the scale of the reference means."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from torch.nn import functional

from evolvedirector.lightning_modules.subjects.placement import grid_coordinates, rotate
from evolvedirector.lightning_modules.subjects.reference_attention import ReferenceAttention, References, attach


def layer() -> tuple[Attention, ReferenceAttention]:
    torch.manual_seed(0)
    attention = Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=4)
    network = torch.nn.Sequential(attention)
    assert attach(network, width=5, gain=1.5) == 1
    processor = attention.processor
    assert isinstance(processor, ReferenceAttention)
    torch.nn.init.normal_(processor.to_out.weight)
    return attention, processor


def references(strength: float | None = None, **changes: object) -> References:
    torch.manual_seed(1)
    fields = {
        "values": torch.randn(1, 4, 5),
        "places": torch.rand(1, 4, 2),
        "mask": torch.tensor([[True, True, False, False]]),
        "null": torch.tensor([False, False, False, True]),
        "canvas": (2, 3),
        "strength": None if strength is None else torch.tensor([strength]),
    }
    return References(**(fields | changes))  # type: ignore[arg-type]


def by_hand(part: ReferenceAttention, states: torch.Tensor, given: References, kept: list[int]) -> torch.Tensor:
    """One head after the other, one query after the other."""
    places = grid_coordinates(2, 3, states.device)[None]
    query, key, value = part.to_q(states), part.to_k(given.values), part.to_v(given.values)
    heads = []
    for head in range(2):
        own = slice(4 * head, 4 * head + 4)
        q, k = (
            rotate(functional.rms_norm(values[..., own], (4,), gain)[:, None], at)[0, 0]
            for values, gain, at in ((query, part.gain_q, places), (key, part.gain_k, given.places))
        )
        rows = [
            ((q[row] @ k[kept].T) / 2).softmax(0) @ value[0, kept, own]  # sqrt(4 channels)
            for row in range(6)
        ]
        heads.append(torch.stack(rows))
    return part.to_out(torch.cat(heads, dim=1))[None]


def test_what_is_added_to_the_text_is_attention_to_the_reference_by_hand() -> None:
    attention, part = layer()
    states, text, given = torch.randn(1, 6, 8), torch.randn(1, 3, 6), references()
    with_reference = attention(states, encoder_hidden_states=text, ip_hidden_states=given)
    alone = attention(states, encoder_hidden_states=text)
    assert torch.allclose(with_reference - alone, by_hand(part, states, given, [0, 1]), atol=1e-5)


def test_at_scale_nought_only_the_null_reference_is_read_and_at_one_only_the_reference() -> None:
    _, part = layer()
    states = torch.randn(1, 6, 8)
    null, full = by_hand(part, states, references(), [3]), by_hand(part, states, references(), [0, 1])
    assert torch.allclose(part.read(states, references(0.0)), null, atol=1e-5)
    assert torch.allclose(part.read(states, references(1.0)), full, atol=1e-5)
    assert torch.allclose(part.read(states, references(2.0)), 2 * full - null, atol=1e-5)


def test_the_order_of_reference_tokens_changes_nothing() -> None:
    _, part = layer()
    states, given = torch.randn(1, 6, 8), references()
    order = [1, 0, 2, 3]
    turned = references(values=given.values[:, order], places=given.places[:, order])
    assert torch.allclose(part.read(states, given), part.read(states, turned), atol=1e-6)
    moved = references(places=given.places[:, order])
    assert not torch.allclose(part.read(states, given), part.read(states, moved), atol=1e-3)


def test_untrained_attention_finds_the_token_that_stands_where_it_is() -> None:
    torch.manual_seed(0)
    attention = Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=16)
    attach(torch.nn.Sequential(attention), width=5, gain=1.5)
    part = attention.processor
    assert isinstance(part, ReferenceAttention)
    torch.nn.init.zeros_(part.to_v.weight)
    places = grid_coordinates(4, 4, torch.device("cpu"))[None]
    given = {"places": places, "mask": torch.ones(1, 16, dtype=torch.bool), "canvas": (4, 4)}
    seen = references(values=torch.randn(1, 16, 5), null=torch.zeros(16, dtype=torch.bool), **given)
    query = rotate(part._normal(part.to_q(torch.randn(1, 16, 8)), part.gain_q), places)
    key = rotate(part._normal(part.to_k(seen.values), part.gain_k), places)
    weights = (query @ key.transpose(-1, -2) / 4).softmax(-1).mean(1)[0]
    assert weights.diagonal().mean() > 2 * weights.mean()
