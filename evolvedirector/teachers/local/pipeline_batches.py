"""Requests that a loaded diffusers pipeline draws in batches, smaller ones when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.teachers.local.pipeline_call import draw_size_px, size_multiple_px, to_png
from evolvedirector.teachers.local.pipeline_loading import empty_memory, is_out_of_memory, own_random_state

if TYPE_CHECKING:
    from PIL.Image import Image

_log = logging.getLogger(__name__)
_ADVICE = "write a smaller batch_size, `quantisation: nf4`, `offload: model`, or a smaller max_side_px"


class PipelineBatches:
    """Draw requests of one size together, each with a generator of its own.

    Args:
        model: Name or folder, for what is logged.
        dtype: Type that the weights are computed in, for what is said of a black image.
        batch_size: Images that are drawn together; halved for good when memory runs out.
        min_side_px: The shorter side is drawn at least this long.
        max_side_px: The longer side is drawn at most this long.
        arguments: Of the pipeline's call, beside what follows from a request.
    """

    def __init__(
        self,
        model: str,
        dtype: str,
        batch_size: int,
        min_side_px: int,
        max_side_px: int,
        arguments: Mapping[str, Any],
    ) -> None:
        self._model = model
        self._dtype = dtype
        self._together = batch_size
        self._sides_px = min_side_px, max_side_px
        self._arguments = dict(arguments)

    def draw(self, pipeline: Any, device: str, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one PNG per request, batch by batch; a batch that fails gives failures.

        Args:
            pipeline: Loaded.
            device: Where it draws, as PyTorch names it.
            requests: Requests of one size are drawn together, in order.
        """
        multiple = size_multiple_px(pipeline)
        by_size: dict[tuple[int, int], list[ImageRequest]] = {}
        for request in requests:
            size = draw_size_px(request.width_px, request.height_px, multiple, *self._sides_px)
            by_size.setdefault(size, []).append(request)
        for size, waiting in by_size.items():
            while waiting:
                batch = waiting[: self._together]
                replies = self._draw(pipeline, device, batch, size)
                if replies is not None:
                    yield from replies
                    waiting = waiting[len(batch) :]

    def _draw(
        self, pipeline: Any, device: str, batch: Sequence[ImageRequest], size: tuple[int, int]
    ) -> list[ImageReply] | None:
        """Draw one batch; None when memory ran out and a smaller one is to be tried."""
        import torch

        call = dict(self._arguments)
        if "negative_prompt" in call:
            call["negative_prompt"] = [call["negative_prompt"]] * len(batch)
        generators = [torch.Generator("cpu").manual_seed(request.seed) for request in batch]
        try:
            with torch.no_grad(), own_random_state(device):
                drawn = pipeline(
                    prompt=[request.prompt for request in batch],
                    generator=generators,
                    width=size[0],
                    height=size[1],
                    **call,
                )
            flagged = getattr(drawn, "nsfw_content_detected", None) or [False] * len(batch)
            pairs = zip(batch, drawn.images, flagged, strict=True)
            return [self._reply(request, image, bool(unsafe)) for request, image, unsafe in pairs]
        except Exception as error:
            if not is_out_of_memory(error):
                reason = f"the pipeline failed: {type(error).__name__}: {error}"[:500]
                return [ImageReply(request.request_id, "failure", reason=reason) for request in batch]
        return self._after_out_of_memory(device, batch)

    def _after_out_of_memory(self, device: str, batch: Sequence[ImageRequest]) -> list[ImageReply] | None:
        """Go on with half the batch; nothing smaller than one image can be tried."""
        empty_memory(device)  # outside of the handler, whose traceback holds the batch's tensors
        if len(batch) > 1:
            self._together = len(batch) // 2
            _log.warning("%s: memory ran out with %d images; %s", self._model, len(batch), _ADVICE)
            return None
        return [ImageReply(request.request_id, "failure", reason=f"memory ran out: {_ADVICE}") for request in batch]

    def _reply(self, request: ImageRequest, image: Image, unsafe: bool) -> ImageReply:
        if unsafe:
            return ImageReply(request.request_id, "refusal", reason="withheld by the pipeline's safety checker")
        if image.convert("RGB").getbbox() is None:
            reason = f"an image that is all black: {self._dtype} overflows in this pipeline, or it withheld the image"
            return ImageReply(request.request_id, "failure", reason=reason)
        return ImageReply(request.request_id, "image", to_png(image, (request.width_px, request.height_px)))
