"""Floating-point operations of a computation, and what share of a device's peak they come to."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

PEAK_SOURCES = {
    "NVIDIA B200": (2250.0, "NVIDIA Blackwell architecture brief, dense BF16"),
    "NVIDIA H200": (989.0, "NVIDIA H200 data sheet, BF16 1,979 with sparsity"),
    "NVIDIA H100 PCIe": (756.0, "NVIDIA H100 data sheet, BF16 1,513 with sparsity"),
    "NVIDIA H100": (989.0, "NVIDIA H100 data sheet (SXM), BF16 1,979 with sparsity"),
    "NVIDIA A100": (312.0, "NVIDIA A100 data sheet, dense BF16"),
    "NVIDIA A10": (125.0, "NVIDIA A10 data sheet, dense BF16"),
    "NVIDIA L40S": (362.0, "NVIDIA L40S data sheet, dense BF16"),
    "NVIDIA L4": (121.0, "NVIDIA L4 data sheet, BF16 242 with sparsity"),
    "NVIDIA GeForce RTX 4090": (165.2, "NVIDIA Ada GPU architecture paper, dense BF16 with FP32 accumulation"),
    "NVIDIA GeForce RTX 3090": (71.0, "NVIDIA GA102 architecture paper, dense BF16 with FP32 accumulation"),
}
"""Beginning of a device's name -> dense bf16 TFLOP/s and where that stands; the first that fits a name counts."""


def flop_counter() -> FlopCounterMode:
    """Return a counter of matrix products, convolutions and attentions, forward and backward, on every device.

    A product of (m, k) and (k, n) counts as 2 m k n; additions, norms and activations count as nothing.
    """
    aten = torch.ops.aten
    on_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=on_cpu)


def peak_of(device_name: str) -> tuple[float, str] | None:
    """Return the dense bf16 peak of a device in TFLOP/s and its source; None where no sheet is known here.

    Args:
        device_name: As torch calls it.
    """
    fitting = (entry for name, entry in PEAK_SOURCES.items() if f"{device_name} ".startswith((f"{name} ", f"{name}-")))
    return next(fitting, None)


def matmul_tflops(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Measure how fast a device multiplies large square matrices, in TFLOP/s: what a peak comes to here and now.

    Args:
        device: To measure.
        dtype: Of the matrices.
        seconds: To measure for, after one product that is not timed.
    """
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    _ = left @ right
    count, started = 0, now_s(device)
    while (elapsed_s := now_s(device) - started) < seconds:
        for _ in range(10 if device.type == "cuda" else 1):
            _ = left @ right
            count += 1
    return 2 * side**3 * count / elapsed_s / 1e12


def now_s(device: torch.device) -> float:
    """Return a clock's seconds once a device has done all that it was given.

    Args:
        device: To wait for.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Return five products for the two of the forward pass: the scores are computed again."""
    return int(sdpa_flop_count(query, key, value)) * 5 // 2
