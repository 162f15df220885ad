"""The written options hold in a trainer, a checkpoint says what was written, and an unchanged resume is exact."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from evolvedirector.callbacks import WrittenSettings
from evolvedirector.lightning_modules import WarmupDecayLR


class Line(pl.LightningModule):
    """Fits one number, and notes the rate of each step."""

    def __init__(self, lr: float, total_steps: int) -> None:
        super().__init__()
        self.weight, self.lr, self.total_steps = torch.nn.Parameter(torch.zeros(2)), lr, total_steps
        self.seen: dict[int, float] = {}

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen[self.trainer.global_step] = self.trainer.optimizers[0].param_groups[0]["lr"]
        return (batch * self.weight.sum() - 1).square().mean()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        schedule = WarmupDecayLR(optimizer, self.total_steps, decay_share=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(folder: Path, module: Line, steps: int, resume: Path | None = None, **settings: Any) -> Line:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=folder,
        enable_model_summary=False,
        **{**quiet, "callbacks": [WrittenSettings()], **settings},
    )
    data: Any = torch.linspace(0, 1, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few workers
        trainer.fit(module, DataLoader(data, batch_size=8), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return module


def test_a_trainer_goes_on_with_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = fit(tmp_path, Line(0.1, 8), 8)
    fit(tmp_path, Line(0.1, 8), 4)
    for callbacks in ([WrittenSettings()], []):  # with it as without it: nothing changed, so nothing is touched
        same = fit(tmp_path, Line(0.1, 8), 8, tmp_path / "4.ckpt", callbacks=callbacks)
        assert same.seen == {step: rate for step, rate in whole.seen.items() if step >= 4}
        assert torch.equal(same.weight, whole.weight)
    assert "changed" not in capsys.readouterr().out
    other = fit(tmp_path, Line(0.01, 16), 8, tmp_path / "4.ckpt")
    assert other.seen == {step: 0.01 for step in range(4, 8)}
    line = "Settings changed since the checkpoint: lr 0.1 -> 0.01, lr_scheduler.total_steps 8 -> 16.\n"
    assert capsys.readouterr().out == line
    again = fit(tmp_path, Line(0.01, 16), 12, tmp_path / "8.ckpt")
    assert again.seen[11] == 0.01 * 5 / 8 and capsys.readouterr().out == ""  # known to the next checkpoint
