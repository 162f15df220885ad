"""A teacher that runs a text-to-image pipeline of diffusers on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from evolvedirector.records import ImageReply, ImageRequest, digest
from evolvedirector.teachers.local.pipeline_batches import PipelineBatches
from evolvedirector.teachers.local.pipeline_call import check_arguments, check_options, check_plain
from evolvedirector.teachers.local.pipeline_files import (
    DType,
    Offload,
    Quantisation,
    check_weights,
    content_name,
    estimate_bytes,
)
from evolvedirector.teachers.local.pipeline_loading import (
    PipelineSource,
    check_device,
    empty_memory,
    find_pipeline,
    free_pipeline,
    index_of,
    load_pipeline,
    own_random_state,
    pipeline_class,
)

_log = logging.getLogger(__name__)


class DiffusersTeacher:
    """Draw with any text-to-image pipeline of diffusers: Stable Diffusion, SDXL, SD3, Flux, PixArt, Sana and others.

    Weights are loaded at the first request of a phase and freed by `close()`, on every rank that draws. Each image has
    a generator of its own on the CPU, seeded by its request, so it does not depend on the rank or on what was drawn
    before; the size of the batch changes the last bits of the arithmetic, so a request that is repeated among other
    neighbours gives the same picture to the eye, not to the bit. A size that the pipeline cannot draw is rounded up to
    one that it can, and the picture is scaled to the size asked for. Only safetensors are read, and no code that comes
    with a model is run.

    Example:
        ```yaml
        teachers:
          sd35:
            class_path: evolvedirector.teachers.DiffusersTeacher
            init_args: {model: stabilityai/stable-diffusion-3.5-medium, quantisation: nf4, num_inference_steps: 28}
        ```
    """

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        variant: str | None = None,
        dtype: DType = "bfloat16",
        quantisation: Quantisation | None = None,
        offload: Offload = "none",
        batch_size: int = 4,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        min_side_px: int = 1,
        max_side_px: int = 2048,
        extra: dict[str, Any] | None = None,
        device: str | None = None,
    ) -> None:
        """Choose a pipeline and how it draws; nothing is loaded yet.

        Args:
            model: Name in the hub (`owner/name`) or a folder with a `model_index.json`.
            revision: Branch, tag or commit in the hub. None: `main`; the commit is part of the fingerprint.
            variant: Variant of the weight files, say `fp16`. None: the plain files.
            dtype: Type that the weights are computed in; several pipelines overflow to black in float16.
            quantisation: Weights of the linear layers of denoiser and text encoders: `nf4` in 4 bits, `int8` in 8
                (bitsandbytes; needs a GPU). None: in `dtype`.
            offload: `none`: all parts stay on the device; `model`: only the part at work; `sequential`: only the layer
                at work, very slow.
            batch_size: Images that are drawn together; halved when memory runs out.
            num_inference_steps: Denoising steps. None: the pipeline's own number.
            guidance_scale: Strength of the prompt. None: the pipeline's own.
            negative_prompt: What the images should not show. None: nothing is said.
            min_side_px: The shorter side is drawn at least this long, in pixels, and scaled down afterwards: a
                pipeline made for 1024 pixels draws badly at 256.
            max_side_px: The longer side is drawn at most this long, in pixels, and scaled up afterwards.
            extra: Further arguments of the pipeline's call, plain values: `{true_cfg_scale: 3.5}`.
            device: Where to draw, say `cuda:1`. None: the rank's own GPU, or the CPU where there is none.

        Raises:
            ValueError: An argument is outside of what is allowed, or `model` is a path to no folder.
        """
        check_arguments(dtype, quantisation, offload, batch_size, num_inference_steps, min_side_px, max_side_px)
        self.model, self.revision, self.variant = model, revision, variant
        self.dtype, self.quantisation, self.offload = dtype, quantisation, offload
        self.batch_size = batch_size
        options = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
        }
        self._options = {name: value for name, value in options.items() if value is not None}
        self._extra = dict(extra or {})
        check_plain(self._extra)
        self.min_side_px, self.max_side_px = min_side_px, max_side_px
        self._device = device
        self._pipeline: Any = None
        arguments = {**self._options, **self._extra}
        self._batches = PipelineBatches(model, dtype, batch_size, min_side_px, max_side_px, arguments)
        self._bytes_before = 0
        self.peak_memory_bytes: int | None = None
        """Most GPU memory that it has taken in its last phase, weights included; None before and on a CPU."""

    @property
    def fingerprint(self) -> str:
        """Name the model by commit or content, and every parameter that changes its images; nothing is loaded."""
        how = digest(
            *(self._name, self.variant or "", self.dtype, self.quantisation or "", self.min_side_px, self.max_side_px),
            *(f"{name}={value!r}" for name, value in sorted({**self._options, **self._extra}.items())),
        )
        source = self._source  # of a folder its name alone: another machine has it elsewhere
        named = source.folder.name if source.folder is not None and source.commit is None else self.model
        return f"diffusers {named} {how}"

    def verify(self) -> None:
        """Check what can be known without loading the weights: the model is there, and accepts what is configured.

        Raises:
            ValueError: With what is wrong and what to write instead.
        """
        index = index_of(self._source)
        check_options(pipeline_class(index), self._options, self._extra)
        if self._source.folder is not None and self._source.commit is None:
            check_weights(self._source.folder, index, self.variant)
        check_device(self._where(), self.quantisation, self.offload)

    def price_usd(self) -> float | None:
        """Return the price of one image in US dollars: none, it is drawn here."""
        return 0.0

    def estimated_bytes(self) -> int | None:
        """Say how much device memory the weights will take, from the headers of the files.

        Returns:
            Bytes, without activations; None for a model of the hub that is not on this machine yet.

        Raises:
            ValueError: A file cannot be read.
        """
        if self._source.folder is None:
            return None
        return estimate_bytes(self._source.folder, self.dtype, self.quantisation, self.offload, self.variant)

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one PNG per request, batch by batch; a batch that fails gives failures.

        Args:
            requests: Requests of one size are drawn together, in order.

        Raises:
            ValueError: The pipeline cannot be loaded at all.
            RuntimeError: Its weights do not fit into memory.
        """
        if not requests:
            return
        yield from self._batches.draw(self._load(), self._where(), requests)

    def close(self) -> Any:
        """Free the weights; the next call loads them again."""
        if self._pipeline is None:
            return
        import torch

        device = self._where()
        if device.startswith("cuda"):
            self.peak_memory_bytes = max(0, torch.cuda.max_memory_allocated(device) - self._bytes_before)
            _log.info("%s took at most %.1f GiB of %s", self.model, self.peak_memory_bytes / 2**30, device)
        pipeline, self._pipeline = self._pipeline, None
        free_pipeline(pipeline)
        del pipeline
        empty_memory(device)

    @cached_property
    def _source(self) -> PipelineSource:
        return find_pipeline(self.model, self.revision)

    @cached_property
    def _name(self) -> str:
        """The commit or the content of a folder; a hub that cannot be asked leaves the name of the revision."""
        if self._source.commit is not None:
            return self._source.commit
        return content_name(self._source.folder) if self._source.folder else f"revision {self.revision or 'main'}"

    def _where(self) -> str:
        if self._device is not None:
            return self._device
        import torch

        return f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"

    def _load(self) -> Any:
        if self._pipeline is not None:
            return self._pipeline
        import torch

        self.verify()
        device, began = self._where(), time.monotonic()
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
            self._bytes_before = torch.cuda.memory_allocated(device)
        index = index_of(self._source)
        with own_random_state(device):
            self._pipeline = load_pipeline(
                pipeline_class(index),
                self._source,
                index,
                dtype=self.dtype,
                quantisation=self.quantisation,
                offload=self.offload,
                device=device,
                variant=self.variant,
            )
        _log.info("%s was loaded onto %s in %.1f s", self.model, device, time.monotonic() - began)
        return self._pipeline
