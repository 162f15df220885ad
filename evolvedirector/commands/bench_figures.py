"""What `evolvedirector bench` measures beside the steps themselves, and all of its figures, as JSON and in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

import evolvedirector
from evolvedirector.callbacks._run.drawing import averaged_weights, chunk_of, eval_mode
from evolvedirector.callbacks._run.stopwatch import PARTS, StepFigures, peak_memory
from evolvedirector.evolution import ImageGenerator
from evolvedirector.lightning_modules import TextToImage
from evolvedirector.lightning_modules.codecs import Pixels
from evolvedirector.lightning_modules.latents import ENCODE_CHUNK, encode_chunk, posterior_of
from evolvedirector.lightning_modules.text_cache import ENCODE_CHUNK as TEXT_CHUNK
from evolvedirector.planning.flops import flop_counter, matmul_tflops, now_s, peak_of
from evolvedirector.planning.memory import gib
from evolvedirector.planning.roles import MayDraw, SizesImages
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Size

MOST_REPEATS = 3
"""Of drawing and encoding: one takes as long as many steps."""
Rows = dict[str, str]


@dataclass(frozen=True, slots=True)
class PartFigures:
    """What one part takes.

    Args:
        s_per_image: Median.
        flops_per_image: Counted.
        peak_bytes: The most memory on the device while it works, whatever lies there included.
    """

    s_per_image: float
    flops_per_image: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class OtherParts:
    """What is measured after the steps.

    Args:
        text: Text encoders. None: the module is no `TextToImage`, whose parts have names.
        codec: Encoding of training images. None likewise, and in pixel space.
        draw: Drawing whole images, texts included. None: the module cannot draw, or names no size.
        drawn: In words, what was drawn.
        codec_chunk: Images that the codec encodes at once.
    """

    text: PartFigures | None = None
    codec: PartFigures | None = None
    draw: PartFigures | None = None
    drawn: str = ""
    codec_chunk: int = ENCODE_CHUNK


def measure_others(trainer: Trainer, module: LightningModule, repeats: int) -> OtherParts:
    """Measure text encoders, codec and drawing of a trained module.

    Args:
        trainer: Attached to the module; its training has ended.
        module: The student.
        repeats: At most `MOST_REPEATS` are made.
    """
    device, repeats = trainer.strategy.root_device, min(repeats, MOST_REPEATS)
    text = codec = draw = None
    drawn, codec_chunk = "", ENCODE_CHUNK
    if isinstance(module, TextToImage):
        for encoder in module.family.text_encoders.values():
            encoder.to(device)
        family = module.family
        texts = [f"a picture of {number} red houses" for number in range(TEXT_CHUNK)]
        text = _measured(lambda: family.encode_text(texts), TEXT_CHUNK, device, repeats)
        if not isinstance(family.codec, Pixels):
            side = module.image_size_px
            codec_chunk = encode_chunk(Size(side, side))
            images = torch.randint(0, 255, (codec_chunk, 3, side, side), dtype=torch.uint8, device=device)
            family.codec.to(device)
            codec = _measured(lambda: posterior_of(family.codec, images), codec_chunk, device, repeats)
    refuses = isinstance(module, MayDraw) and not module.draws
    if isinstance(module, ImageGenerator) and isinstance(module, SizesImages) and module.image_size_px and not refuses:
        chunk, side, calls = chunk_of(module), module.image_size_px, iter(range(1_000_000))

        def generate() -> None:
            number = next(calls)  # no text is in the cache
            prompts = [f"picture {number} of {place} blue houses" for place in range(chunk)]
            module.generate([  # type: ignore[operator]
                ImageRequest(f"bench-{number}-{place}", prompt, place, side, side)
                for place, prompt in enumerate(prompts)
            ])  # fmt: skip

        with eval_mode(module), averaged_weights(trainer, module):
            draw = _measured(generate, chunk, device, repeats)
        drawn = f"{side} x {side} px, {chunk} at once"
        if isinstance(module, TextToImage):
            drawn += f", {module.sampling_steps} steps, guidance {module.guidance_scale:g}"
    return OtherParts(text, codec, draw, drawn, codec_chunk)


def _measured(work: Callable[[], Any], images: int, device: torch.device, repeats: int) -> PartFigures:
    """Let the work be counted, traced, then timed, so that it is warm."""
    with torch.no_grad():
        with flop_counter() as counter:
            work()
        with peak_memory(device) as peak:
            work()
        took = []
        for _ in range(repeats):
            started = now_s(device)
            work()
            took.append(now_s(device) - started)
    return PartFigures(statistics.median(took) / images, counter.get_total_flops() / images, peak[0])


def no_effect(trainer: Trainer, module: LightningModule, steps: StepFigures, threads: object) -> list[str]:
    """List the options that were seen to change nothing, each with what was seen.

    Args:
        trainer: After its training.
        module: The student.
        steps: What was measured.
        threads: `cpu_threads` of the config.
    """
    found = []
    if threads == "auto" and trainer.strategy.root_device.type != "cpu":
        found.append("cpu_threads: auto: training is not on the CPU")
    if not isinstance(module, TextToImage):
        return found
    if module.compute.gradient_checkpointing and not steps.checkpointed_blocks:
        found.append("compute.gradient_checkpointing: no block was checkpointed in a step")
    if module.compute.compile_blocks:
        from torch._dynamo.utils import counters

        if not counters["stats"]["unique_graphs"]:
            found.append("compute.compile_blocks: nothing was compiled")
        elif breaks := sum(counters["graph_break"].values()):
            found.append(f"compute.compile_blocks: in part, {breaks} times a block went on uncompiled")
    in_latents = not isinstance(module.family.codec, Pixels)
    if in_latents and module.latent_cache_gib > 0 and not steps.reads_latents:
        found.append("latent_cache_gib: batches held images, and each was encoded")
    return found


@dataclass(frozen=True, slots=True)
class BenchFigures:
    """All figures of a bench.

    Args:
        device: Its name.
        devices: Of the run, of which one was measured.
        precision: Of the trainer.
        steps: Of the training.
        others: Text encoders, codec, drawing.
        matmul_tflops: Measured rate of large matrix products, in the precision of the run.
        peak_tflops: Of the device. None: nobody states one.
        peak_source: Who states it.
        without_effect: Options that changed nothing.
    """

    device: str
    devices: int
    precision: str
    steps: StepFigures
    others: OtherParts
    matmul_tflops: float
    peak_tflops: float | None
    peak_source: str
    without_effect: list[str] = field(default_factory=list)

    @property
    def images_per_s(self) -> float:
        """Training images per second on this device."""
        return self.steps.batch_size / self.steps.typical_step_s

    @property
    def codec_s_in_step(self) -> float:
        """Time in which a step encodes its images; 0 where batches hold latents."""
        return 0.0 if self._encoded is None else self._encoded.s_per_image * self._encoded_images

    @property
    def network_flops(self) -> float:
        """Forward and backward of the network for one image, without what is computed again."""
        return self.forward_flops + self._per_image(self.steps.backward_flops)

    @property
    def forward_flops(self) -> float:
        """Forward pass of the network for one image, without the codec."""
        codec = 0.0 if self._encoded is None else self._encoded.flops_per_image * self._encoded_images
        return self._per_image(self.steps.forward_flops - codec)

    @property
    def images_per_s_without_caches(self) -> float | None:
        """Computed, not measured: each step encodes its texts and images; None where no part has a name."""
        if self.others.text is None:
            return None
        codec = self.others.codec if self.steps.reads_latents else None
        return 1 / (
            1 / self.images_per_s + self.others.text.s_per_image + (0.0 if codec is None else codec.s_per_image)
        )

    @property
    def mfu(self) -> float | None:
        """Share of the peak that forward and backward of the network come to; None without a peak."""
        rate = self.network_flops * self.images_per_s / 1e12
        return None if self.peak_tflops is None else rate / self.peak_tflops

    def as_json(self) -> dict[str, Any]:
        """Return every figure with its unit in its name."""
        text, codec, draw = self.others.text, self.others.codec, self.others.draw
        named = {"train": self.steps.peak_bytes, **{
            name: part.peak_bytes for name, part in (("text", text), ("codec", codec), ("draw", draw)) if part
        }}  # fmt: skip
        return {
            "evolvedirector": evolvedirector.__version__,
            "torch": torch.__version__,
            "device": self.device,
            "devices_of_the_run": self.devices,
            "cpu_threads": torch.get_num_threads(),
            "precision": self.precision,
            "batch_size": self.steps.batch_size,
            "train": {
                "images_per_s": self.images_per_s,
                "images_per_s_without_caches": self.images_per_s_without_caches,
                "step_s": self.steps.typical_step_s,
                "batches_per_update": self.steps.batches_per_update,
                "steps_timed": len(self.steps.step_s),
                "parts_s": self.parts_s(),
                "reads_latents": self.steps.reads_latents,
                "text_s_per_image": None if text is None else text.s_per_image,
                "codec_s_per_image": None if codec is None else codec.s_per_image,
            },
            "flops_per_image": {
                "forward": self.forward_flops,
                "backward": self._per_image(self.steps.backward_flops),
                "computed_again": self._per_image(self.steps.recomputed_flops),
                "text": None if text is None else text.flops_per_image,
                "codec": None if codec is None else codec.flops_per_image,
                "draw": None if draw is None else draw.flops_per_image,
            },
            "mfu": self.mfu,
            "peak_tflops": self.peak_tflops,
            "peak_source": self.peak_source,
            "matmul_tflops": self.matmul_tflops,
            "generate": None if draw is None else {"images_per_s": 1 / draw.s_per_image, "what": self.others.drawn},
            "peak_bytes": named,
            "no_effect": self.without_effect,
        }

    def parts_s(self) -> dict[str, float]:
        """Return what each part of a step takes, in seconds; the codec's is part of `forward`."""
        return {name: self.steps.typical(self.steps.parts_s[name]) for name in PARTS if self.steps.parts_s.get(name)}

    def rows(self) -> dict[str, Rows]:
        """Put the figures into words, by table."""
        text, codec, draw = self.others.text, self.others.codec, self.others.draw
        share = f", one of {self.devices}" if self.devices > 1 else ""
        train: Rows = {
            "device": f"{self.device}{share}, precision {self.precision}",
            "images/s": f"{self.images_per_s:,.1f} ({self.steps.batch_size} a batch, {self._taken_over})",
            "steps/s": f"{1 / self.steps.typical_step_s:,.2f}",
        }
        if (bare := self.images_per_s_without_caches) is not None:
            train["without caches"] = f"{bare:,.1f} images/s, computed: texts and images encoded in each step"
        parts: Rows = {name: _ms(value) for name, value in self.parts_s().items()}
        if self.codec_s_in_step and "forward" in parts:
            parts["forward"] += f", of which the codec {_ms(self.codec_s_in_step)}"
        parts |= {
            f"{name}, once per image": _ms(part.s_per_image)
            for name, part in (("text", text), ("codec", codec))
            if part
        }
        flops: Rows = {
            "network": f"{_flops(self.network_flops)}: forward {_flops(self.forward_flops)}, backward "
            f"{_flops(self._per_image(self.steps.backward_flops))}",
        }
        if self.steps.recomputed_flops:
            flops["computed again"] = f"{_flops(self._per_image(self.steps.recomputed_flops))}, in checkpointed blocks"
        flops |= {name: _flops(part.flops_per_image) for name, part in (("text", text), ("codec", codec)) if part}
        flops["rate"] = f"{self.network_flops * self.images_per_s / 1e12:.3g} TFLOP/s in training"
        flops["matrix products"] = f"{self.matmul_tflops:.3g} TFLOP/s measured here, large ones in the run's precision"
        flops["MFU"] = (
            "no peak of this device is stated: write --peak-tflops X"
            if self.mfu is None
            else f"{self.mfu:.3f} of {self.peak_tflops:g} TFLOP/s ({self.peak_source})"
        )
        memory: Rows = {"train": gib(self.steps.peak_bytes)}
        memory |= {n: gib(p.peak_bytes) for n, p in (("text", text), ("codec", codec), ("draw", draw)) if p}
        tables = {"training": train, "one step": parts, "FLOPs of one image": flops}
        if draw is not None:
            tables["drawing"] = {"images/s": f"{1 / draw.s_per_image:,.2f} ({self.others.drawn})"}
        tables["most memory"] = memory
        if self.without_effect:
            tables["no effect"] = {str(n): line for n, line in enumerate(self.without_effect, start=1)}
        return tables

    @property
    def _taken_over(self) -> str:
        batches = len(self.steps.step_s)
        each = self.steps.batches_per_update
        return f"median of {batches} steps" if each == 1 else f"mean of {batches} batches, {each} an update"

    @property
    def _encoded(self) -> PartFigures | None:
        return None if self.steps.reads_latents else self.others.codec

    @property
    def _encoded_images(self) -> int:
        count = self.others.codec_chunk
        return math.ceil(self.steps.batch_size / count) * count  # the last chunk is padded

    def _per_image(self, of_batch: float) -> float:
        return of_batch / max(1, self.steps.batch_size)


def figures_of(
    trainer: Trainer, steps: StepFigures, others: OtherParts, devices: int, peak: float | None, without: list[str]
) -> BenchFigures:
    """Put what was measured beside what the device could do.

    Args:
        trainer: After its training.
        steps: Of it.
        others: Measured after it.
        devices: Of the run.
        peak: Stated by the user, in TFLOP/s. None: the device's sheet, where one is known.
        without: Options without effect.
    """
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    known = peak_of(name)
    tflops, source = (peak, "as --peak-tflops states") if peak is not None else known or (None, "")
    dtype = torch.bfloat16 if "bf16" in precision else torch.float16 if precision.startswith("16") else torch.float32
    return BenchFigures(
        name, devices, precision, steps, others, matmul_tflops(device, dtype), tflops, source, without
    )  # fmt: skip


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.2f} ms"


def _flops(count: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.3g} {unit}FLOP"
    return f"{count:,.0f} FLOP"
