"""Figures of a CUDA device for docs/benchmarks.md, on networks of full size with random weights: nothing is downloaded.

`pytest -m gpu -s tests/test_gpu_figures.py` prints one line for each. Texts and latents are given, as full caches do.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from evolvedirector.lightning_modules import SDXL, PixArt, RandomTextEncoder, TextToImage
from evolvedirector.lightning_modules.assemble import Where, assemble
from evolvedirector.lightning_modules.codecs.codec import Posterior
from evolvedirector.lightning_modules.objectives import DDPM, DDPMEpsilon
from evolvedirector.planning.flops import flop_counter, matmul_tflops, now_s, peak_of
from evolvedirector.planning.memory import gib

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
PRECISION, WITHIN, STEPS = "bf16-mixed", 0.15, 10


class Latents:
    """The numbers of Stable Diffusion's codec; latents are given, so that it never works."""

    channels, downscaling, is_random, fingerprint = 4, 8, True, "latents"

    def encode(self, images: Tensor) -> Posterior:
        raise AssertionError("latents are given")

    def decode(self, latents: Tensor) -> Tensor:
        raise AssertionError("nothing is drawn")

    def normalise(self, raw: Tensor) -> Tensor:
        return raw * 0.13

    def to(self, device: torch.device) -> None:
        """Nothing moves."""


@dataclass
class Vectors:
    """Random states of one size in place of CLIP's."""

    dimension: int
    pooled_dimension: int
    max_tokens: int = 77
    fingerprint: str = "vectors"

    def encode_pooled(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        states = torch.randn(len(texts), self.max_tokens, self.dimension, dtype=torch.bfloat16)
        return states, torch.randn(len(texts), self.pooled_dimension, dtype=torch.bfloat16)

    def to(self, device: torch.device) -> None:
        """Nothing moves."""


def pixart(side_px: int, text_dimension: int = 4096, **numbers: Any) -> TextToImage:
    """PixArt-XL/2 with its variance; other numbers make it smaller."""
    settings: dict[str, Any] = {"compute": numbers.pop("compute", None)}
    family = PixArt(
        RandomTextEncoder(text_dimension), side_px // 8, Latents(), text_length=120, out_channels=8, **numbers
    )
    return TextToImage(family, DDPMEpsilon(variational_weight=0.001), side_px, **settings)


def sdxl(side_px: int, base_precision: str, **numbers: Any) -> TextToImage:
    """SDXL with a LoRA of rank 32; other numbers make it smaller."""
    family = SDXL(Vectors(768, 768), Vectors(1280, 1280), Latents(), gradient_checkpointing=True, **numbers)
    trained: Any = {"lora": {"rank": 32}, "base_precision": base_precision}
    return TextToImage(family, DDPM("epsilon"), side_px, trained=trained)


def stepper(module: TextToImage, device: torch.device, batch_size: int) -> Callable[[], None]:
    """Build the network as a run does and return a whole step of it: forward, backward, clipping, update."""
    built = assemble(module.family, 0, module.trained, module.compute, Where(PRECISION, device))
    module.transformer, _ = built
    module.to(device)._log_training = lambda *_: None  # type: ignore[method-assign]
    side = module.image_size_px // 8
    latent = torch.randn(batch_size, 4, side, side, device=device)
    batch = {
        "prompt": ["a red house beside a lake"] * batch_size,
        "sample_seed": torch.arange(batch_size),
        "latent_mean": latent,
        "latent_deviation": latent.abs(),
        "size_px": torch.full((batch_size, 2), module.image_size_px),
    }
    trained = [part for part in module.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


def timed(step: Callable[[], None], device: torch.device, steps: int = STEPS) -> float:
    """Median seconds of a warm step."""
    for _ in range(3):
        step()
    took = []
    for _ in range(steps):
        started = now_s(device)
        step()
        took.append(now_s(device) - started)
    return statistics.median(took)


def flops_of(step: Callable[[], None]) -> int:
    with flop_counter() as counter:
        step()
    return counter.get_total_flops()


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_can_be_measured() -> None:
    cpu, base_precision = torch.device("cpu"), "bfloat16"
    small = {"layers": 1, "heads": 2, "head_dim": 8}
    step = stepper(pixart(32, 16, **small), cpu, 2)
    assert flops_of(step) > 0 and timed(step, cpu, steps=1) > 0
    narrow = {
        "channels": (8, 16),
        "transformer_layers": (0, 1),
        "heads": (1, 2),
        "layers_per_level": 1,
        "norm_groups": 4,
    }
    module = sdxl(32, base_precision, **narrow)
    assert module.work_bytes(2, (32, 32), PRECISION).train
    assert timed(stepper(sdxl(32, base_precision, **narrow), cpu, 2), cpu, steps=1) > 0


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("compile_blocks", [False, True], ids=["plain", "compiled"])
def test_pixart_xl_at_512_px_with_caches_computes_at_half_of_the_peak(compile_blocks: bool) -> None:
    device, batch_size = torch.device("cuda"), 64
    plain = stepper(pixart(512), device, batch_size)
    flops = flops_of(plain)
    step = stepper(pixart(512, compute={"compile_blocks": True}), device, batch_size) if compile_blocks else plain
    seconds = timed(step, device)
    peak, name = peak_of(torch.cuda.get_device_name()), torch.cuda.get_device_name()
    rate = flops / seconds / 1e12
    print(
        f"\n{name}: PixArt-XL/2 512 px, full step, batch {batch_size}, {'compiled' if compile_blocks else 'plain'}: "
        f"{batch_size / seconds:.1f} img/s, {rate:.0f} TFLOP/s, "
        f"MFU {'unknown' if peak is None else f'{rate / peak[0]:.3f}'}, "
        f"large products {matmul_tflops(device, torch.bfloat16):.0f} TFLOP/s, {gib(torch.cuda.max_memory_allocated())}"
    )
    if peak is None:
        pytest.skip(f"no data sheet of {name} is known here")
    assert rate / peak[0] >= 0.5 or not compile_blocks  # the aim is that of the faster way


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("base_precision", ["bfloat16", "nf4", "int8"])
def test_a_lora_of_sdxl_takes_what_is_predicted(base_precision: str) -> None:
    device, batch_size, side = torch.device("cuda"), 2, 1024
    predicted = sdxl(side, base_precision).work_bytes(batch_size, (side, side), PRECISION).train
    assert predicted is not None
    step = stepper(sdxl(side, base_precision), device, batch_size)
    step()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    print(
        f"\n{torch.cuda.get_device_name()}: LoRA of SDXL, 1024 px, batch {batch_size}, base in {base_precision}: peak "
        f"{gib(peak)}, predicted {gib(held + predicted)}, reserved {gib(torch.cuda.max_memory_reserved())}"
    )
    assert held + predicted == pytest.approx(peak, rel=WITHIN)
