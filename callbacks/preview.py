"""Pictures to look at while a run goes on: fixed prompts and seeds, student beside teacher."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from PIL import Image, ImageDraw

from evolvedirector.callbacks._run.drawing import chunk_of, student_draw
from evolvedirector.callbacks._run.held_out import size_px_of
from evolvedirector.callbacks._run.host_checks import is_smoke_test
from evolvedirector.callbacks._run.to_loggers import log_picture
from evolvedirector.errors import UserError
from evolvedirector.records import ImageRequest, digest, seed_of
from evolvedirector.records.part import Part
from evolvedirector.records.prompt_source import PromptSource
from evolvedirector.teachers.teacher import Teacher

CELL_PX = 128
FRAME_PX = 256
"""Longest side of the single images that are kept for the film strip of the report."""
CAPTION_PX = 30
GAP_PX = 6


class PreviewCallback(pl.Callback):
    """Draw the same prompts with the same seeds again and again, as one PNG grid per preview.

    Grids go to `<default_root_dir>/previews/step-00001200.png` and to every logger that takes images; the single images
    are kept beside them, in `frames/<prompt>/`, for the film strips of the report. Averaged weights are used when a
    callback keeps them. Whatever goes wrong here becomes a warning: a preview never ends a run.

    Example:
        ```yaml
        - class_path: evolvedirector.callbacks.PreviewCallback
          init_args:
            prompts: [a red circle, three green stars]
            every_n_epochs: 5
        ```
    """

    def __init__(
        self,
        prompts: list[str] | PromptSource,
        every_n_epochs: int = 5,
        teacher: Teacher | None = None,
        image_size_px: int | None = None,
        max_prompts: int = 24,
        columns: int = 4,
        seed: int = 0,
    ) -> None:
        """Set what is drawn and how often.

        Args:
            prompts: The fixed prompts, or a source of them.
            every_n_epochs: Epochs between grids; one more is drawn when training ends.
            teacher: Draws each prompt once per run folder, beside the student; these calls are outside of the budget of
                evolution. None: the student alone.
            image_size_px: Side of the images. None: the module's `image_size_px`.
            max_prompts: Prompts in the grid.
            columns: Prompts side by side.
            seed: Root of the fixed seeds.

        Raises:
            UserError: No prompts, or a number below 1.
        """
        super().__init__()
        for name, value in (("every_n_epochs", every_n_epochs), ("max_prompts", max_prompts), ("columns", columns)):
            if value < 1:
                raise UserError(f"{name} is {value}. Allowed: 1 or more. Write `{name}: 4`, say.")
        if isinstance(prompts, Sequence) and not prompts:
            raise UserError("prompts is empty. Allowed: at least one text. Write `prompts: [a red circle]`, say.")
        self.prompts = prompts
        self.every_n_epochs = every_n_epochs
        self.teacher = teacher
        self.image_size_px = image_size_px
        self.max_prompts = max_prompts
        self.columns = columns
        self.seed = seed
        self.last_grid: Path | None = None
        self._drawn_step = -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw a grid every `every_n_epochs` epochs."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._preview(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw a last grid with the finished student."""
        if self._drawn_step != trainer.global_step:
            self._preview(trainer, pl_module)

    def parts(self) -> dict[str, Part]:
        """Name the teacher, if there is one, for those who verify and size it."""
        return {} if self.teacher is None else {"teacher": self.teacher}

    def plan_summary(self) -> dict[str, str]:
        """Say what previews cost, for `evolvedirector check`."""
        count = len(self.prompts) if isinstance(self.prompts, list) else self.max_prompts
        calls = min(count, self.max_prompts) if self.teacher is not None else 0
        return {"preview teacher calls (once, outside the budget)": str(calls)}

    def _preview(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._drawn_step = trainer.global_step
        if is_smoke_test(trainer):
            return
        try:
            requests = self._requests(module)
            chunk = chunk_of(module)
            padded = [*requests, *[requests[-1]] * (-len(requests) % chunk)]
            students = student_draw(trainer, module)(padded)[
                : len(requests)
            ]  # on every rank: a sharded student needs all
            if trainer.is_global_zero:
                teachers = self._teachers(Path(trainer.default_root_dir) / "previews" / "teacher", requests)
                grid = compose_grid([request.prompt for request in requests], students, teachers, self.columns)
                self.last_grid = self._save(trainer, grid)
                folder = Path(trainer.default_root_dir) / "previews" / "frames"
                _save_frames(folder, trainer.global_step, requests, students, teachers)
                log_picture(trainer, "previews/student_and_teacher", grid)
        except Exception as error:
            warnings.warn(f"The preview at step {trainer.global_step} failed and is skipped: {error!r}", stacklevel=2)

    def _requests(self, module: pl.LightningModule) -> list[ImageRequest]:
        listed = self.prompts if isinstance(self.prompts, list) else [p.text for p in self.prompts.prompts()]
        size = self.image_size_px or size_px_of(module) or 0
        return [
            ImageRequest(
                digest("preview", position, text), text, seed_of("preview", self.seed, position, text), size, size
            )
            for position, text in enumerate(listed[: self.max_prompts])
        ]

    def _teachers(self, folder: Path, requests: Sequence[ImageRequest]) -> list[bytes | None]:
        """Return the teacher's images; each is asked for once per run folder, a refusal included."""
        if self.teacher is None:
            return [None] * len(requests)
        folder.mkdir(parents=True, exist_ok=True)
        files = {r.request_id: folder / f"{digest(self.teacher.fingerprint, r.request_id)}.png" for r in requests}
        missing = [request for request in requests if not files[request.request_id].exists()]
        if missing:
            for reply in self.teacher.generate(missing):
                if reply.status != "failure":
                    files[reply.request_id].write_bytes(reply.image or b"")  # empty: refused, and not asked again
            self.teacher.close()
        return [path.read_bytes() or None if path.exists() else None for path in files.values()]

    def _save(self, trainer: pl.Trainer, grid: Image.Image) -> Path:
        folder = Path(trainer.default_root_dir) / "previews"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{trainer.global_step:08d}.png"
        partial = path.with_suffix(".tmp")
        grid.save(partial, "PNG")
        os.replace(partial, path)
        return path


def compose_grid(
    prompts: Sequence[str], students: Sequence[bytes], teachers: Sequence[bytes | None], columns: int
) -> Image.Image:
    """Lay out captioned pairs: student left, teacher right (student alone where there is no teacher image)."""
    paired = any(teacher is not None for teacher in teachers)
    width = CELL_PX * (2 if paired else 1) + GAP_PX * 2
    height = CELL_PX + CAPTION_PX + GAP_PX
    columns = min(columns, len(prompts))
    rows = -(-len(prompts) // columns)
    grid = Image.new("RGB", (columns * width, rows * height + GAP_PX), "white")
    pen = ImageDraw.Draw(grid)
    for position, (prompt, student, teacher) in enumerate(zip(prompts, students, teachers, strict=True)):
        left = (position % columns) * width + GAP_PX
        top = (position // columns) * height + GAP_PX
        grid.paste(_cell(student), (left, top))
        if teacher is not None:
            grid.paste(_cell(teacher), (left + CELL_PX + 2, top))
        pen.multiline_text((left, top + CELL_PX + 2), _wrapped(prompt, width // 6), fill="black", spacing=1)
    return grid


def _save_frames(
    folder: Path,
    global_step: int,
    requests: Sequence[ImageRequest],
    students: Sequence[bytes],
    teachers: Sequence[bytes | None],
) -> None:
    """Keep each image by its prompt: `prompt.txt`, `teacher.png` and one `step-00001200.png` per preview."""
    for request, student, teacher in zip(requests, students, teachers, strict=True):
        own = folder / request.request_id
        own.mkdir(parents=True, exist_ok=True)
        (own / "prompt.txt").write_text(request.prompt, encoding="utf-8")
        for name, image in ((f"step-{global_step:08d}", student), ("teacher", teacher)):
            if image is not None:
                picture = Image.open(io.BytesIO(image)).convert("RGB")
                picture.thumbnail((FRAME_PX, FRAME_PX))
                picture.save(own / f"{name}.tmp", "PNG")
                os.replace(own / f"{name}.tmp", own / f"{name}.png")


def _cell(image: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    return picture.resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST)  # pixels as they are, not smoothed


def _wrapped(text: str, characters: int) -> str:
    text = " ".join(text.split())
    first, rest = text[:characters], text[characters : 2 * characters]
    return f"{first}\n{rest}".encode("latin-1", "replace").decode("latin-1")  # what the built-in font can draw
