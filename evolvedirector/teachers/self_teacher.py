"""The student itself, frozen, as a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from evolvedirector.errors import UserError
from evolvedirector.models.exported_student import LORA_FILES, STUDENT
from evolvedirector.records import ImageReply, ImageRequest
from evolvedirector.store.paths import local_model, user_path
from evolvedirector.teachers.local.diffusers_teacher import DiffusersTeacher
from evolvedirector.teachers.local.pipeline_call import check_arguments
from evolvedirector.teachers.local.pipeline_files import INDEX, DType
from evolvedirector.teachers.local.run_export import export_once, run_folder
from evolvedirector.teachers.local.student_teacher import StudentTeacher


class SelfTeacher:
    """Draw with the student as it was at one point: a model that learns from its own images, as in SELMA and VersaT2I.

    To the round it is a teacher like any other: its images are bought (for nothing), recorded and trained on. It never
    changes while the student trains. What draws is an exported folder, either the stock pipeline of diffusers or, where
    there is none, the student in our own form; a hub name serves for the model that the student starts from.

    Example:
        ```yaml
        teachers:
          self:
            class_path: evolvedirector.teachers.SelfTeacher
            init_args: {source: runs/base, folder: runs/selma/self}
        ```
    """

    def __init__(
        self,
        source: str,
        folder: str | None = None,
        revision: str | None = None,
        dtype: DType = "float32",
        batch_size: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        extra: dict[str, Any] | None = None,
        export_options: Sequence[str] = (),
        device: str | None = None,
    ) -> None:
        """Choose whose images, and how they are drawn; nothing is loaded yet.

        Args:
            source: A folder that `evolvedirector export` made, a pipeline of diffusers (a folder or a name in the hub),
                or a run folder (its newest checkpoint is taken) or a checkpoint in one.
            folder: Where the student of a run is exported to, once, before anything is bought; later calls find it
                there. None: `source` is no run.
            revision: Branch, tag or commit in the hub. None: `main`.
            dtype: Type that is computed in; `float32` draws what the student itself draws.
            batch_size: Images that are drawn together. None: the student's own number, 4 for a pipeline.
            num_inference_steps: Denoising steps. None: the student's or the pipeline's own number.
            guidance_scale: Strength of the prompt. None: the student's or the pipeline's own.
            extra: Further arguments of a pipeline's call, plain values. None: none.
            export_options: Overrides of the run's options for its export, as `fit` takes them.
            device: Where to draw, say `cuda:1`. None: the rank's own GPU, or the CPU where there is none.

        Raises:
            UserError: An argument is outside of what is allowed.
        """
        if not source.strip():
            raise UserError("source is empty. Allowed is an export, a pipeline or a run. Write `source: runs/base`.")
        check_arguments(dtype, None, "none", 1 if batch_size is None else batch_size, num_inference_steps, 1, 1)
        self.source, self.folder, self.revision = source, folder, revision
        self.dtype, self.batch_size = dtype, batch_size
        self.num_inference_steps, self.guidance_scale = num_inference_steps, guidance_scale
        self.extra = extra
        self.export_options = tuple(export_options)
        self.device = device

    @property
    def fingerprint(self) -> str:
        """Name the frozen weights by their content, and every setting that changes the images."""
        return f"self {self._drawer.fingerprint}"

    def verify(self) -> None:
        """Export the student where that is to be done, and check that it can draw; loads no weights.

        Raises:
            UserError: With what is wrong and what to write instead.
        """
        self._drawer.verify()

    def price_usd(self) -> float | None:
        """Return the price of one image in US dollars: none, it is drawn here."""
        return 0.0

    def estimated_bytes(self) -> int | None:
        """Say how much device memory the weights take; None for what is exported or downloaded later.

        Raises:
            UserError: A file cannot be read.
        """
        place = self._place()
        return None if self._is_run(place) and not self._exported().is_dir() else self._drawer.estimated_bytes()

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        """Yield one PNG per request, batch by batch.

        Args:
            requests: Requests of one size are drawn together, in order.

        Raises:
            UserError: The student cannot be loaded.
            RunError: It does not fit into memory.
        """
        yield from self._drawer.generate(requests)

    def close(self) -> Any:
        """Free the weights; the next call loads them again."""
        if "_drawer" in self.__dict__:
            self._drawer.close()

    @cached_property
    def _drawer(self) -> DiffusersTeacher | StudentTeacher:
        """What draws, by the form of the folder; a run is exported first."""
        place = self._place()
        if self._is_run(place):
            export_once(place, self._exported(), self.export_options)
            place = self._exported()
        drawn = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
        if (place / STUDENT).is_file():
            self._refuse_extra()
            return StudentTeacher(place, self.dtype, self.batch_size, device=self.device, **drawn)  # type: ignore[arg-type]
        if any((place / name).is_file() for name in LORA_FILES):
            raise UserError(
                f"{place} holds a LoRA alone, which does not draw. Allowed is a whole student. Export it with "
                "`evolvedirector export RUN FOLDER --merged`, or write the run itself as `source`."
            )
        if place.exists() and not (place / INDEX).is_file():
            raise UserError(
                f"{place} holds neither an export nor a run: there is no {STUDENT}, {INDEX} or config.yaml. Allowed is "
                "what `evolvedirector export` made, a pipeline of diffusers, or a run. Correct `source`."
            )
        named = str(place) if (place / INDEX).is_file() else self.source
        more = {"batch_size": self.batch_size or 4, "extra": self.extra, "device": self.device, **drawn}
        return DiffusersTeacher(named, self.revision, dtype=self.dtype, **more)  # type: ignore[arg-type]

    def _place(self) -> Path:
        return local_model(self.source) or user_path(self.source)

    def _is_run(self, place: Path) -> bool:
        """Say whether a path lies in a run; an export in one is an export."""
        return not any((place / name).is_file() for name in (INDEX, STUDENT, *LORA_FILES)) and (
            run_folder(place) is not None
        )

    def _exported(self) -> Path:
        if self.folder is None:
            raise UserError(
                f"The self-teacher's source {self.source} is a run, and `folder` is not set. Allowed is a folder that "
                "its student is exported to, once. Write `folder: runs/mine/self`, say."
            )
        return user_path(self.folder)

    def _refuse_extra(self) -> None:
        if self.extra:
            raise UserError(
                f"extra is {self.extra}, and {self.source} is a student in our own form, whose drawing takes nothing "
                "further. Allowed there is none. Leave `extra` out."
            )
