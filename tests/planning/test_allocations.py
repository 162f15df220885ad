"""What operations allocate is seen in full, and only that; what they compute is counted."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from evolvedirector.planning.allocations import AllocationTracker, held_bytes
from evolvedirector.planning.flops import flop_counter, peak_of

KIB = 1024


def test_storages_count_once_while_they_live() -> None:
    before = torch.zeros(256)
    with AllocationTracker() as tracker:
        kept = before + 1  # 1 KiB
        view = kept.view(16, 16)[0]
        _ = before.view(16, 16)  # there before
        assert tracker.live_bytes == KIB
        del kept
        assert tracker.live_bytes == KIB, "a view holds its storage"
        sums = torch.stack([view.sum(), before.sum()])
        del view
        tracker.start_anew()
        assert tracker.live_bytes == sums.nbytes == tracker.peak_bytes
        _ = before * 2
    assert tracker.peak_bytes == KIB + sums.nbytes
    assert held_bytes([before, before[:3], sums]) == KIB + sums.nbytes


def test_saved_activations_are_seen_until_the_backward_pass_frees_them() -> None:
    layers = nn.Sequential(nn.Linear(64, 64, bias=False), nn.GELU(), nn.Linear(64, 1, bias=False))
    batch = torch.randn(128, 64)
    with AllocationTracker() as tracker:
        loss = layers(batch).sum()
        assert tracker.live_bytes >= 2 * 128 * 64 * 4  # before and after the activation
        loss.backward()
        del loss
        gradients = sum(part.nbytes for part in layers.parameters())
        assert tracker.live_bytes == gradients


def test_products_and_attentions_are_counted_on_the_cpu() -> None:
    with flop_counter() as counter:
        _ = nn.Linear(8, 16)(torch.randn(4, 8))
    assert counter.get_total_flops() == 2 * 4 * 8 * 16
    query = torch.randn(2, 3, 10, 8, requires_grad=True)
    with flop_counter() as counter:
        scaled_dot_product_attention(query, query, query).sum().backward()
    assert counter.get_total_flops() == 2 * 3 * (2 + 5) * 2 * 10 * 10 * 8


def test_a_peak_is_that_of_the_very_device() -> None:
    assert peak_of("NVIDIA A100-SXM4-80GB") == peak_of("NVIDIA A100 80GB PCIe")
    assert [peak_of(name)[0] for name in ("NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3", "NVIDIA L4")] == [756, 989, 121]  # type: ignore[index]
    assert peak_of("NVIDIA L40") is None and peak_of("cpu") is None
