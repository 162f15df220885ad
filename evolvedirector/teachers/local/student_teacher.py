"""A student in our own exported form that draws as a teacher."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolvedirector.errors import RunError, UserError
from evolvedirector.models.exported_student import (
    NETWORK,
    STUDENT,
    ExportedStudent,
    check_export,
    described_student,
    exported_student,
    network_files,
    set_sampling,
)
from evolvedirector.models.model_loading import free_memory, is_out_of_memory, rank_device
from evolvedirector.records import ImageReply, ImageRequest, digest
from evolvedirector.records.part import bytes_of, close_parts, verify_parts
from evolvedirector.teachers.local.pipeline_call import to_png
from evolvedirector.teachers.local.pipeline_files import DType, sampled_bytes
from evolvedirector.teachers.local.pipeline_loading import check_device, own_random_state

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)


class StudentTeacher:
    """Draw with a folder that holds `student.yaml` and `transformer/`, as `evolvedirector export` writes it.

    `SelfTeacher` holds one where its folder is of this form. The student is built by its class path and draws in chunks
    of one size, the last one padded, with noise from each request's seed: an image depends on its request alone.
    """

    def __init__(
        self,
        folder: Path,
        dtype: DType = "float32",
        batch_size: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        device: str | None = None,
    ) -> None:
        """Choose an export and how it draws; nothing is loaded yet.

        Args:
            folder: The export.
            dtype: Type that is computed in; weights stay in float32.
            batch_size: Images that are drawn together. None: as many as the student says.
            num_inference_steps: Denoising steps. None: the student's own number.
            guidance_scale: Strength of the prompt. None: the student's own.
            device: Where to draw. None: the rank's own GPU, or the CPU where there is none.
        """
        self.folder, self.dtype, self._device = folder, dtype, device
        self._options: dict[str, Any] = {
            "generation_chunk_size": batch_size,
            "sampling_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
        }
        self._student: ExportedStudent | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Name the exported weights by their content, and every setting that changes the images."""
        files = [self.folder / STUDENT, self.folder / NETWORK / "config.json", *network_files(self.folder)]
        content: list[str | bytes] = []
        for path in files:
            content += [path.name, *(sampled_bytes(path) if path.is_file() else ())]
        settings = sorted((name, value) for name, value in self._options.items() if value is not None)
        return f"student {digest(*content, self.dtype, repr(settings))}"

    def verify(self) -> None:
        """Check, without loading weights, that the export is whole and that text encoders and codec are there.

        Raises:
            UserError: With what is wrong and what to write instead.
        """
        check_export(self.folder)
        student = described_student(self.folder)
        set_sampling(student, self._options["sampling_steps"], self._options["guidance_scale"])
        verify_parts(*student.parts().values())
        check_device(str(rank_device(self._device)), None, "none")

    def price_usd(self) -> float | None:
        """Return the price of one image in US dollars: none, it is drawn here."""
        return 0.0

    def estimated_bytes(self) -> int | None:
        """Say how much device memory network, text encoders and codec take; activations come on top.

        Raises:
            UserError: The export cannot be read.
        """
        network = sum(path.stat().st_size for path in network_files(self.folder))
        return network + sum(bytes_of(*described_student(self.folder).parts().values()))

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one PNG per request, chunk by chunk; a size that the student cannot draw is a failure.

        Args:
            requests: Requests of one size are drawn together, in order.

        Raises:
            UserError: The student cannot be loaded.
            RunError: It does not fit into memory, or its weights are not finite.
        """
        if not requests:
            return
        student = self.student()
        by_size: dict[tuple[int, int], list[ImageRequest]] = {}
        for request in requests:
            by_size.setdefault((request.width_px, request.height_px), []).append(request)
        for alike in by_size.values():
            for start in range(0, len(alike), student.generation_chunk_size):
                yield from self._draw(student, alike[start : start + student.generation_chunk_size])

    def student(self) -> ExportedStudent:
        """Return the student with its weights, on its device; loaded where it is not yet.

        Raises:
            UserError: It cannot be loaded.
        """
        if self._student is not None:
            return self._student
        device, began = rank_device(self._device), time.monotonic()
        with own_random_state(str(device)):
            student = exported_student(self.folder)
        set_sampling(student, self._options["sampling_steps"], self._options["guidance_scale"])
        student.generation_chunk_size = self._options["generation_chunk_size"] or student.generation_chunk_size
        student.to(device)
        self._student = student
        _log.info("The student in %s was loaded onto %s in %.1f s", self.folder, device, time.monotonic() - began)
        return student

    def close(self) -> Any:
        """Free the weights; the next call loads them again."""
        if self._student is None:
            return
        student, self._student = self._student, None
        close_parts(*student.parts().values())
        del student
        free_memory()

    def _draw(self, student: ExportedStudent, chunk: Sequence[ImageRequest]) -> list[ImageReply]:
        import torch

        try:
            with torch.no_grad(), own_random_state(str(rank_device(self._device))), self._precision():
                images = student.generate(chunk)
        except UserError as refusal:  # of the size: nothing was drawn, and nothing is counted
            return [ImageReply(r.request_id, "failure", None, str(refusal), sent=False) for r in chunk]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"The student in {self.folder} does not fit into memory with {student.generation_chunk_size} images "
                "at once. Allowed is what the device holds. Write a smaller batch_size, or `dtype: bfloat16`."
            ) from error
        return [
            ImageReply(request.request_id, "image", _png(image)) for request, image in zip(chunk, images, strict=True)
        ]

    def _precision(self) -> AbstractContextManager[Any]:
        import torch

        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(rank_device(self._device).type, getattr(torch, self.dtype))


def _png(image: Tensor) -> bytes:
    """Encode uint8 (3, height, width)."""
    from PIL import Image

    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    return to_png(picture, picture.size)
