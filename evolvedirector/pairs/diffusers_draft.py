"""Draw drafts with diffusers: text-to-image under a ControlNet, or image-to-image from the subject."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, get_args

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.models.import_diffusers import import_diffusers
from evolvedirector.models.model_files import ModelSettings, ModelSource
from evolvedirector.models.model_loading import load_model, place_of, rank_device, readable_errors
from evolvedirector.models.on_demand import MemoryGuard, ModelOnDemand
from evolvedirector.pairs.control_image import Control, canny, shown
from evolvedirector.pairs.pair_records import IMAGE, REFERENCE, REFERENCE_MASK, PairReply, PairRequest, failed
from evolvedirector.pairs.pictures import mask_of, picture_file, pixels_of
from evolvedirector.records import digest
from evolvedirector.records.part import close_parts
from evolvedirector.teachers.local.pipeline_files import DType, content_name, sampled_bytes
from evolvedirector.teachers.local.pipeline_loading import (
    PipelineSource,
    empty_memory,
    find_pipeline,
    free_pipeline,
    index_of,
    load_pipeline,
    own_random_state,
    pipeline_class,
)


class DiffusersDraft:
    """Draw a prompt so that it keeps the subject's form: with a ControlNet, or from its noised picture (SDEdit).

    Toffee (Zhou et al. 2024, section 3) draws with a ControlNet; which one it does not say. With one, the form is that
    of the reference at its place, so a change of `place` needs drafts without it (`TeacherDraft`) or by image-to-image
    with a high strength.
    """

    def __init__(
        self,
        model: str,
        controlnet: str | None = None,
        control: Control = "canny",
        depth_model: str | None = None,
        strength: float = 0.75,
        revision: str | None = None,
        dtype: DType = "bfloat16",
        num_inference_steps: int = 30,
        guidance_scale: float = 7.5,
        control_scale: float = 1.0,
        batch_size: int = 4,
        device: str | None = None,
    ) -> None:
        """Choose the models; weights are loaded at the first call.

        Args:
            model: Pipeline: folder, or name on the model hub.
            controlnet: Likewise. None: image-to-image from the subject.
            control: What the ControlNet is shown: mask, canny or depth.
            depth_model: Depth estimation model by name; `control: depth` needs it.
            strength: Of image-to-image: the share of the noising that is undone, over 0 to 1.
            revision: Of the pipeline on the hub. None: its main branch.
            dtype: Type that is computed in.
            num_inference_steps: Denoising steps.
            guidance_scale: Strength of the prompt.
            control_scale: Strength of the ControlNet.
            batch_size: Pictures drawn together.
            device: Where to draw. None: the rank's own GPU, or the CPU.

        Raises:
            UserError: Something is out of range, or depth is asked for without a model.
        """
        if control not in get_args(Control) or not 0 < strength <= 1 or batch_size < 1 or num_inference_steps < 1:
            raise UserError(
                f"control is {control!r}, strength {strength}, batch_size {batch_size} and num_inference_steps"
                f" {num_inference_steps}. Allowed are {', '.join(get_args(Control))}, over 0 to 1, and 1 or more. Write"
                " `control: canny`, say."
            )
        if controlnet is not None and control == "depth" and depth_model is None:
            raise UserError(
                "control is 'depth', but no depth_model is named. Allowed is any depth estimation model. Write"
                " `depth_model: depth-anything/Depth-Anything-V2-Small-hf`, say."
            )
        self.model, self.revision, self.dtype = model, revision, dtype
        self.controlnet, self.control, self.strength = controlnet, control, strength
        self.steps, self.guidance_scale, self.control_scale = num_inference_steps, guidance_scale, control_scale
        self.batch_size, self._device = batch_size, device
        self._pipeline: Any = None
        self._depth: ModelOnDemand[Any] | None = None
        if depth_model is not None:
            self._depth = ModelOnDemand(ModelSettings(depth_model, None, "float32", None, device), _load_depth)
        self._guard: MemoryGuard[PairRequest, PairReply] = MemoryGuard(
            self._drawn,
            lambda request: failed(request, "the picture does not fit the memory"),
            "Allowed is what it holds beside the weights. Write `batch_size: 1`.",
        )

    @property
    def fingerprint(self) -> str:
        """Name the models by content, and every parameter that changes a picture."""
        how = (self.control, self.strength, self.dtype, self.steps, self.guidance_scale, self.control_scale)
        named = [_named(source) for source in (self._source, self._control_source) if source is not None]
        depth = "" if self._depth is None else self._depth.source().short_name
        name = self._source.model.rstrip("/").rsplit("/", 1)[-1]
        return f"diffusers draft 1 {name} {digest(*named, depth, *map(str, how))}"

    def verify(self) -> None:
        """See that the models are there and that diffusers has a pipeline for the task; loads no weights."""
        self._class()

    def draw(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield one picture per pair."""
        for start in range(0, len(requests), self.batch_size):
            yield from self._guard.run(list(requests[start : start + self.batch_size]))

    def close(self) -> None:
        """Free the models' memory."""
        close_parts(self._depth)
        if self._pipeline is not None:
            pipeline, self._pipeline = self._pipeline, None
            free_pipeline(pipeline)
            del pipeline
            empty_memory(str(rank_device(self._device)))

    def _drawn(self, requests: Sequence[PairRequest]) -> list[PairReply]:
        import torch

        pipeline = self._load()
        first = requests[0]
        generators = [torch.Generator("cpu").manual_seed(r.seed % 2**63) for r in requests]
        settings: dict[str, Any] = {
            "prompt": [r.prompt for r in requests],
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "generator": generators,
            "image": [self._shown(r) for r in requests],
        }
        if self.controlnet is None:
            settings["strength"] = self.strength
        else:
            size = {"width": first.width_px, "height": first.height_px}
            settings |= {"controlnet_conditioning_scale": self.control_scale, **size}
        with torch.no_grad():
            images = pipeline(**settings).images
        return [
            PairReply(r.request_id, files={IMAGE: picture_file(np.asarray(image.convert("RGB")))})
            for r, image in zip(requests, images, strict=True)
        ]

    def _shown(self, request: PairRequest) -> Image.Image:
        """Return what the pipeline reads of the subject, in the size of the pair."""
        pixels = pixels_of(request.files[REFERENCE])
        if self.controlnet is not None:
            if self.control == "mask":
                pixels = shown(mask_of(request.files[REFERENCE_MASK]))
            elif self.control == "canny":
                pixels = shown(canny(pixels))
            else:
                pixels = self._depths(pixels)
        return Image.fromarray(pixels).resize((request.width_px, request.height_px), Image.Resampling.BICUBIC)

    def _depths(self, pixels: np.ndarray) -> np.ndarray:
        """Return depth as a picture, near white: uint8 [height, width, 3]."""
        import torch

        assert self._depth is not None
        network, processor = self._depth.get()
        inputs = processor(images=Image.fromarray(pixels), return_tensors="pt").to(network.device)
        with torch.no_grad():
            depth = network(**inputs).predicted_depth[0].float().cpu().numpy()
        low, high = float(depth.min()), float(depth.max())
        grey = np.rint((depth - low) / max(high - low, 1e-6) * 255).astype(np.uint8)
        scaled = Image.fromarray(grey).resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BICUBIC)
        return np.repeat(np.asarray(scaled)[..., None], 3, axis=-1)

    @cached_property
    def _source(self) -> PipelineSource:
        return find_pipeline(self.model, self.revision)

    @cached_property
    def _control_source(self) -> ModelSource | None:
        from evolvedirector.models.model_files import find_model

        return None if self.controlnet is None else find_model(self.controlnet, None)

    def _class(self) -> Any:
        """Return the pipeline class for the task, by the class that the model was saved as.

        Raises:
            UserError: diffusers has none.
        """
        import_diffusers()
        import diffusers
        from diffusers.pipelines.auto_pipeline import (
            AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
            AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
            _get_task_class,
        )

        name = pipeline_class(index_of(self._source)).__name__
        if self.controlnet is None:
            found = _get_task_class(AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, name, throw_error_if_not_exist=False)
        else:
            wanted = name.replace("Pipeline", "ControlNetPipeline")
            found = _get_task_class(AUTO_TEXT2IMAGE_PIPELINES_MAPPING, wanted, throw_error_if_not_exist=False)
        if found is None:
            task = "image-to-image" if self.controlnet is None else "ControlNet"
            raise UserError(
                f"The pipeline '{self.model}' is a {name}, for which diffusers {diffusers.__version__} has no {task}"
                " pipeline. Allowed are Stable Diffusion, SDXL, SD3, Flux and others that have one. Write one of them."
            )
        return found

    def _load(self) -> Any:
        if self._pipeline is not None:
            return self._pipeline
        device = str(rank_device(self._device))
        found = self._class()
        with own_random_state(device):
            if self._control_source is not None:
                found = _WithControlNet(found, self._control_net())
            self._pipeline = load_pipeline(
                found,
                self._source,
                index_of(self._source),
                dtype=self.dtype,
                quantisation=None,
                offload="none",
                device=device,
            )
        return self._pipeline

    def _control_net(self) -> Any:
        import torch
        from diffusers import ControlNetModel

        assert self._control_source is not None
        with readable_errors(self._control_source.model):
            return ControlNetModel.from_pretrained(
                place_of_control(self._control_source), torch_dtype=getattr(torch, self.dtype), use_safetensors=True
            )


class _WithControlNet:
    """Load a pipeline class with a ControlNet that is there already."""

    def __init__(self, found: Any, controlnet: Any) -> None:
        self._found, self._controlnet = found, controlnet

    def from_pretrained(self, where: Any, **settings: Any) -> Any:
        return self._found.from_pretrained(where, controlnet=self._controlnet, **settings)


def place_of_control(source: ModelSource) -> str:
    """Return what diffusers loads a ControlNet from: its folder, or its name on the hub."""
    return str(source.folder) if source.folder is not None and source.commit is None else source.model


def _named(source: PipelineSource | ModelSource) -> str:
    """Name a model by its commit, or by what is in its folder; a hub that cannot be asked leaves its name."""
    if source.commit is not None:
        return source.commit
    if source.folder is None:
        return source.model
    if isinstance(source, PipelineSource):
        return content_name(source.folder)
    files = sorted(path for path in source.folder.iterdir() if path.suffix in (".json", ".safetensors"))
    parts: list[str | bytes] = []
    for path in files:
        parts += [path.name, *sampled_bytes(path)]
    return digest(*parts)


def _load_depth(source: ModelSource, settings: ModelSettings) -> Any:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    load: Any = AutoImageProcessor.from_pretrained
    with readable_errors(source.model):
        processor = load(place_of(source), revision=settings.revision, trust_remote_code=False)
    return load_model(AutoModelForDepthEstimation.from_pretrained, source, settings), processor
