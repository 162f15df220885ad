"""What `evolvedirector predict` leaves behind: one picture per prompt, and which is which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from evolvedirector.callbacks._run.drawing import encode_png


class ImageWriter(pl.Callback):
    """Write the images of `predict` to `<default_root_dir>/predictions/`, each with its prompt and seed in a JSON line.

    File names are the requests' ids, so a prompt that a padded chunk repeats is written once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: set[str] = set()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with nothing written."""
        self._written = set()

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
        folder = Path(trainer.default_root_dir) / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"prompts-rank{trainer.global_rank}.jsonl").open("a" if self._written else "w") as listing:
            for image, request in zip(outputs, batch, strict=True):
                if request.request_id in self._written:
                    continue
                self._written.add(request.request_id)
                name = f"{request.request_id}.png"
                (folder / name).write_bytes(encode_png(image))
                listing.write(json.dumps({"image": name, "prompt": request.prompt, "seed": request.seed}) + "\n")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where to look."""
        if trainer.is_global_zero:
            print(f"Images:  {Path(trainer.default_root_dir) / 'predictions'}", flush=True)
