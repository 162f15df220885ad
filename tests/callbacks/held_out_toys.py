"""What the tests of figures share: two batches to train on, held-out prompts to draw, and a quiet trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from evolvedirector.records import ImageRequest, Prompt


class HeldOutData(pl.LightningDataModule):
    """Train on two black pictures, draw some prompts."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        super().__init__()
        self.held_out = list(prompts)

    def held_out_prompts(self) -> list[Prompt]:
        return self.held_out

    def train_dataloader(self) -> Any:
        batch = {"prompt": ["tone 0"], "image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}
        return torch.utils.data.DataLoader([batch, batch], batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        requests = [ImageRequest(prompt.id, prompt.text, 0, 8, 8) for prompt in self.held_out]
        return torch.utils.data.DataLoader(requests, batch_size=2, collate_fn=list)  # type: ignore[arg-type]

    test_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch


def trainer_of(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", callbacks=list(callbacks), enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
        **{"logger": False, "max_epochs": 1, "num_sanity_val_steps": 0, **options},
    )  # fmt: skip
