"""Masks by any segmentation model of the transformers library, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from evolvedirector.errors import UserError
from evolvedirector.models.model_files import Dtype, ModelSettings, ModelSource, digest_of_model
from evolvedirector.models.model_loading import load_config, load_model, place_of, readable_errors
from evolvedirector.models.on_demand import MemoryGuard, ModelOnDemand
from evolvedirector.pairs.pair_records import DRAFT_MASK, IMAGE, MASK, PairReply, PairRequest, failed, refused
from evolvedirector.pairs.pictures import mask_file, pixels_of
from evolvedirector.records.part import close_parts

_BACKGROUND = frozenset({"background", "wall", "sky", "floor", "unlabeled"})


class TransformersMask:
    """Find the subject with SAM, prompted by a box, or with any image segmentation model.

    SAM is prompted with the box in which a detector by name (GroundingDINO, OWL-ViT) finds the category's words, or,
    without a detector, with the middle of the picture. Of an image segmentation model the segment is taken whose label
    is the category, else the largest one that is no background. Where a picture came with its own outline, that one is
    taken.
    """

    def __init__(
        self,
        model: str = "facebook/sam-vit-base",
        detector: str | None = "IDEA-Research/grounding-dino-tiny",
        revision: str | None = None,
        detector_revision: str | None = None,
        least_confidence: float = 0.25,
        dtype: Dtype = "float32",
        device: str | None = None,
        own_outline: bool = True,
    ) -> None:
        """Choose the models; weights are loaded at the first call.

        Args:
            model: Segments: folder, or name on the model hub; a SAM, or an image segmentation model.
            detector: Finds the box of a category for a SAM. None: SAM is prompted with the middle.
            revision: Of the model on the hub. None: its main branch.
            detector_revision: Of the detector. None: its main branch.
            least_confidence: Of a box, 0 to 1; without one so sure the picture is refused.
            dtype: Of weights and computation.
            device: As PyTorch names it. None: the GPU of the rank, or the CPU.
            own_outline: Take the outline that came with a picture, where one did.

        Raises:
            UserError: A number is out of range.
        """
        if not 0 <= least_confidence <= 1:
            raise UserError(f"least_confidence is {least_confidence}. Allowed are 0 to 1. Write 0.25.")
        self.least_confidence, self.own_outline = least_confidence, own_outline
        self._settings = ModelSettings(model, revision, dtype, None, device)
        self._model: ModelOnDemand[_Loaded] = ModelOnDemand(self._settings, _load_segmenter)
        self._detector: ModelOnDemand[_Loaded] | None = None
        if detector is not None:
            self._detector = ModelOnDemand(
                ModelSettings(detector, detector_revision, dtype, None, device), _load_detector
            )
        self._guard: MemoryGuard[PairRequest, PairReply] = MemoryGuard(
            lambda requests: [self._found(request) for request in requests],
            lambda request: failed(request, "the picture does not fit the memory"),
            "Allowed is what it holds beside the model. Write `dtype: float16`, or a smaller model.",
        )

    @property
    def fingerprint(self) -> str:
        """Name both models and the threshold."""
        sources = [part.source() for part in (self._model, self._detector) if part is not None]
        named = " ".join(f"{source.short_name} {digest_of_model(source)}" for source in sources)
        return f"transformers mask 1 {named} {self.least_confidence} {self._settings.dtype} {self.own_outline}"

    def verify(self) -> None:
        """See that the models are there; loads no weights."""
        for part in (self._model, self._detector):
            if part is not None:
                part.checked_source()

    def estimated_bytes(self) -> int | None:
        """Return what the weights take, in bytes; None where they are not here yet."""
        sizes = [part.estimated_bytes() for part in (self._model, self._detector) if part is not None]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def mask(self, requests: Sequence[PairRequest]) -> Iterator[PairReply]:
        """Yield the mask of each picture."""
        for request in requests:
            given = request.files.get(DRAFT_MASK)
            if given is not None and self.own_outline:
                yield PairReply(request.request_id, files={MASK: given})
            else:
                yield from self._guard.run([request])

    def close(self) -> None:
        """Free the models' memory."""
        close_parts(self._model, self._detector)

    def _found(self, request: PairRequest) -> PairReply:
        image = Image.fromarray(pixels_of(request.files[IMAGE]))
        loaded = self._model.get()
        if loaded.kind == "segmentation":
            mask = _segment(loaded, image, request.subject.category)
        else:
            box = None if self._detector is None else self._box(image, request.subject.category)
            if self._detector is not None and box is None:
                words = f"No '{request.subject.category}' was found in the picture of '{request.subject.name}'."
                return refused(request, words)
            mask = _sam_mask(loaded, image, box)
        if mask is None:
            return refused(request, f"The picture of '{request.subject.name}' was segmented into nothing.")
        return PairReply(request.request_id, files={MASK: mask_file(mask)})

    def _box(self, image: Image.Image, category: str) -> list[float] | None:
        """Return the surest box of a category, in pixels; None where none is sure enough."""
        import torch

        assert self._detector is not None
        loaded = self._detector.get()
        text = f"a {category.lower().rstrip('.')}."
        grounding = loaded.kind == "grounding-dino"
        inputs = loaded.processor(images=image, text=text if grounding else [[text[:-1]]], return_tensors="pt")
        with torch.no_grad():
            outputs = loaded.network(**inputs.to(loaded.network.device))
        sizes = [(image.height, image.width)]
        read = loaded.processor
        if grounding:
            found = read.post_process_grounded_object_detection(
                outputs, inputs["input_ids"], threshold=self.least_confidence, text_threshold=0.0, target_sizes=sizes
            )[0]
        else:
            found = read.post_process_grounded_object_detection(
                outputs, threshold=self.least_confidence, target_sizes=sizes
            )[0]
        if not len(found["scores"]):
            return None
        return [float(value) for value in found["boxes"][int(found["scores"].argmax())]]


class _Loaded:
    """A model with its processor, and what kind it is."""

    def __init__(self, network: Any, processor: Any, kind: str) -> None:
        self.network, self.processor, self.kind = network, processor, kind


def _load_segmenter(source: ModelSource, settings: ModelSettings) -> _Loaded:
    from transformers import (
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
        MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
        AutoModelForSemanticSegmentation,
        AutoModelForUniversalSegmentation,
        SamModel,
        SamProcessor,
    )

    config = load_config(source, settings.revision)
    if config.model_type == "sam":
        load: Any = SamProcessor.from_pretrained
        with readable_errors(source.model):
            processor = load(place_of(source), revision=settings.revision)
        return _Loaded(load_model(SamModel.from_pretrained, source, settings), processor, "sam")
    loader: Any
    if type(config) in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
        loader = AutoModelForUniversalSegmentation
    elif type(config) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        loader = AutoModelForSemanticSegmentation
    else:
        raise UserError(
            f"The model {source.model!r} (type {config.model_type!r}) makes no masks. Allowed are SAM and image"
            " segmentation models such as SegFormer or Mask2Former. Write `model: facebook/sam-vit-base`, say."
        )
    return _Loaded(load_model(loader.from_pretrained, source, settings), _images_of(source, settings), "segmentation")


def _load_detector(source: ModelSource, settings: ModelSettings) -> _Loaded:
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    config = load_config(source, settings.revision)
    load: Any = AutoProcessor.from_pretrained
    with readable_errors(source.model):
        processor = load(place_of(source), revision=settings.revision, trust_remote_code=False)
    network = load_model(AutoModelForZeroShotObjectDetection.from_pretrained, source, settings)
    return _Loaded(network, processor, config.model_type)


def _images_of(source: ModelSource, settings: ModelSettings) -> Any:
    from transformers import AutoImageProcessor

    load: Any = AutoImageProcessor.from_pretrained
    with readable_errors(source.model):
        return load(place_of(source), revision=settings.revision, trust_remote_code=False)


def _sam_mask(loaded: _Loaded, image: Image.Image, box: list[float] | None) -> np.ndarray | None:
    """Return SAM's surest mask for a box, or for the middle of the picture."""
    import torch

    middle = {"input_points": [[[image.width / 2, image.height / 2]]]}
    prompt: dict[str, Any] = middle if box is None else {"input_boxes": [[box]]}
    inputs = loaded.processor(image, return_tensors="pt", **prompt)
    sizes, scaled = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    with torch.no_grad():
        outputs = loaded.network(**inputs.to(loaded.network.device))
    masks = loaded.processor.post_process_masks(outputs.pred_masks.cpu(), sizes, scaled)[0][0]
    return np.asarray(masks[int(outputs.iou_scores[0, 0].argmax())], bool)


def _segment(loaded: _Loaded, image: Image.Image, category: str) -> np.ndarray | None:
    """Return the segment whose label is the category, else the largest one that is no background."""
    import torch

    inputs = loaded.processor(images=image, return_tensors="pt").to(loaded.network.device)
    with torch.no_grad():
        outputs = loaded.network(**inputs)
    labels = np.asarray(
        loaded.processor.post_process_semantic_segmentation(outputs, [(image.height, image.width)])[0].cpu()
    )
    names = {number: str(name).lower() for number, name in loaded.network.config.id2label.items()}
    found, counts = np.unique(labels, return_counts=True)
    sizes = {int(label): int(count) for label, count in zip(found, counts, strict=True)}
    asked = [label for label in sizes if category.lower() in names.get(label, "").replace(",", " ").split()]
    other = [label for label in sizes if names.get(label, "") not in _BACKGROUND]
    chosen = max(asked or other, key=lambda label: sizes[label], default=None)
    return None if chosen is None else labels == chosen
