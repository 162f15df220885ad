"""What `evolvedirector predict` leaves behind: one picture per prompt, and which is which."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from evolvedirector.callbacks._run.drawing import encode_png

FOLDER = "predictions"
_ABOUT = "about.json"


class ImageWriter(pl.Callback):
    """Write the images of `predict` to `<default_root_dir>/predictions/`, each with its prompt and seed in a JSON line.

    That folder always holds one whole prediction: pictures are written to `predictions-unfinished/` and moved there at
    the end. What lay there before is kept beside it under the name of its checkpoint, as
    `predictions-step-00001200/`, unless it is the same, so pictures of two checkpoints or two lists of prompts never
    lie in one folder. File names are the requests' ids, so a prompt that a padded chunk repeats is written once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: set[str] = set()
        self._folder = Path()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a folder of its own; rank 0 names it."""
        self._written = set()
        folder = ""
        if trainer.is_global_zero:
            folder = str(_new_folder(Path(trainer.default_root_dir), f"{FOLDER}-unfinished"))
        self._folder = Path(trainer.strategy.broadcast(folder))

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write one batch; every rank writes its own list."""
        with (self._folder / f"prompts-rank{trainer.global_rank}.jsonl").open("a", encoding="utf-8") as listing:
            for image, request in zip(outputs, batch, strict=True):
                if request.request_id in self._written:
                    continue
                self._written.add(request.request_id)
                name = f"{request.request_id}.png"
                (self._folder / name).write_bytes(encode_png(image))
                listing.write(json.dumps({"image": name, "prompt": request.prompt, "seed": request.seed}) + "\n")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the whole prediction to its place, and say where to look."""
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            path = trainer.ckpt_path
            about = {"checkpoint": None if path is None else str(path), "name": checkpoint_name(path)}
            (self._folder / _ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
            place = Path(trainer.default_root_dir) / FOLDER
            earlier = _set_aside(place, self._folder)
            os.replace(self._folder, place)
            kept = f" (those before: {earlier})" if earlier else ""
            print(f"Images:  {place}{kept}", flush=True)


def checkpoint_name(path: object) -> str:
    """Name a checkpoint as a folder may be called: `step-00001200`, or the stem of a file of another program.

    Args:
        path: As `trainer.ckpt_path` has it. None: the module as it is.
    """
    if path is None:
        return "no-checkpoint"
    stem = Path(str(path)).parent.name if Path(str(path)).stem == "state" else Path(str(path)).stem
    return _safe(stem)


def _safe(name: object) -> str:
    return re.sub(r"[^\w=.-]+", "_", str(name)).strip(".")[:80] or "checkpoint"


def _set_aside(place: Path, new: Path) -> Path | None:
    """Keep an earlier prediction under the name of its checkpoint; one with the same files is let go."""
    if not place.is_dir():
        return None
    if _same_files(place, new):
        shutil.rmtree(place)
        return None
    try:
        name = _safe(json.loads((place / _ABOUT).read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        name = "earlier"  # of a version that did not say
    aside = _new_folder(place.parent, f"{FOLDER}-{name}")
    os.replace(place, aside)
    return aside


def _same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def _new_folder(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    turn = 1
    while True:
        folder = parent / (name if turn == 1 else f"{name}-{turn}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            turn += 1
