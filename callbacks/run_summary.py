"""What a run came to, in one file that tools can read and two lines that people can."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from evolvedirector.evolution.summary import SUMMARY_KEYS


class RunSummary(pl.Callback):
    """Write `<default_root_dir>/summary.json` after every epoch and at the end, and say where the pictures are.

    Other callbacks contribute through a method `summary_entries() -> dict`; a key that nobody contributes is null.
    `images_seen` counts training images over all ranks, `wall_s` the seconds of all runs of this run folder.
    """

    def __init__(self) -> None:
        super().__init__()
        self._images_seen = 0
        self._wall_s = 0.0
        self._since = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Keep counting across resumes."""
        return {"images_seen": self._images_seen, "wall_s": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._images_seen = state_dict["images_seen"]
        self._wall_s = state_dict["wall_s"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all ranks."""
        self._images_seen += len(batch["image"]) * trainer.world_size

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what is known so far."""
        self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last figures."""
        self._write(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where to look; also when the run was over before it began."""
        path = Path(trainer.default_root_dir) / "summary.json"
        if not trainer.is_global_zero or not path.exists():
            return
        grids = [c.last_grid for c in trainer.callbacks if getattr(c, "last_grid", None)]  # type: ignore[attr-defined]
        for grid in grids:
            print(f"Images:  {grid}", flush=True)
        print(f"Summary: {path}", flush=True)

    def _write(self, trainer: pl.Trainer) -> Path | None:
        if not trainer.is_global_zero:
            return None
        figures: dict[str, Any] = dict.fromkeys(SUMMARY_KEYS)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "summary_entries"):
                figures |= callback.summary_entries()
        figures |= {"images_seen": self._images_seen, "wall_s": round(self._seconds(), 1)}
        path = Path(trainer.default_root_dir) / "summary.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
        return path

    def _seconds(self) -> float:
        return self._wall_s + (time.monotonic() - self._since if self._since else 0.0)
