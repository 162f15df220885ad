"""Weights that are not finite: not saved, not averaged, not paid for, and never a reason to lose finite ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from evolvedirector.callbacks import EvolutionCallback, RunCheckpoint, RunSummary
from evolvedirector.callbacks.checkpoint import latest_committed, passed_over, prune
from evolvedirector.callbacks.ema import EMA
from evolvedirector.commands.chosen_checkpoint import choose_checkpoint
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import RunError
from evolvedirector.evolution import Budget
from evolvedirector.policies import EvolveDirectorPolicy
from evolvedirector.store.ledger import Ledger
from tests import toys


class Spoiled(toys.ToyStudent):
    """Somebody else's module, whose weights and loss are NaN from a step on."""

    nonfinite_from = 4

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step + 1 >= self.nonfinite_from:
            with torch.no_grad():
                next(self.parameters()).fill_(torch.nan)
        return super().training_step(batch, batch_idx)  # type: ignore[no-any-return]


def fit(folder: Path, module: pl.LightningModule, *callbacks: pl.Callback) -> pl.Trainer:
    data = EvolvingDataModule(
        folder / "data", seeds=toys.ToyPrompts(6), global_batch_size=4, batches_per_epoch=3, image_size_px=8
    )
    evolution = EvolutionCallback(
        {"toy": toys.ToyTeacher()}, toys.ToyJudge(), toys.ToyWriter(), EvolveDirectorPolicy(), Budget(20)
    )
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, max_epochs=3, callbacks=[evolution, *callbacks],
        reload_dataloaders_every_n_epochs=1, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, RunCheckpoint) for callback in callbacks),
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer


def calls(folder: Path) -> int:
    with Ledger.for_reading(folder / "data" / "ledger.sqlite") as ledger:
        return ledger.spend().teacher_calls


def test_no_round_and_no_checkpoint_for_a_foreign_student_of_nan(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="The weights of Spoiled are not finite at step 6"):
        fit(tmp_path, Spoiled(), RunSummary(), RunCheckpoint(keep_last=1))
    names = sorted(path.parent.name for path in tmp_path.glob("checkpoints/*/COMMIT.json"))
    assert names == ["step-00000003"]
    state = torch.load(tmp_path / "checkpoints" / names[0] / "state.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert (figures["nonfinite_steps"], figures["nonfinite_at"]) == (3, [4, 5, 6])
    assert calls(tmp_path) == figures["teacher_calls"], "nothing is bought after the round at step 3"


def test_seeds_are_not_bought_for_weights_that_begin_as_nan(tmp_path: Path) -> None:
    module = toys.ToyStudent()
    with torch.no_grad():
        next(module.parameters()).fill_(torch.inf)
    with pytest.raises(RunError, match="Nothing is bought for them"):
        fit(tmp_path, module)
    assert calls(tmp_path) == 0


def test_averages_take_in_finite_weights_only() -> None:
    module, ema = torch.nn.Linear(2, 1, bias=False), EMA(decay=0.5)
    ema._update(module)  # type: ignore[arg-type]
    kept = ema._average["weight"].clone()
    with torch.no_grad():
        module.weight.fill_(torch.nan)
    ema._update(module)  # type: ignore[arg-type]
    assert torch.equal(ema._average["weight"], kept) and ema.updates == 0


def committed(folder: Path, *marks: bool | None) -> None:
    """Write checkpoints in order; None is the marker of an earlier version, which does not say."""
    for order, mark in enumerate(marks):
        path = folder / "checkpoints" / f"step-{order}"
        path.mkdir(parents=True)
        (path / "state.ckpt").write_bytes(b"state")
        marker = {"files": {"state.ckpt": 5}, "global_step": order, "order": order, "revision_sha": None}
        (path / "COMMIT.json").write_text(json.dumps(marker | ({} if mark is None else {"finite": mark})))


@pytest.mark.parametrize(
    ("marks", "kept", "last", "later"),
    [
        ((True, True, True), [1, 2], 2, []),
        ((None, True, False, False, False), [0, 1, 3, 4], 1, [2, 3, 4]),
        ((True, False, True, False), [0, 2, 3], 2, [3]),
        ((True, False, True, True), [2, 3], 3, []),
        ((False, False, False), [1, 2], 2, []),
    ],
)
def test_finite_checkpoints_are_kept_and_chosen(
    tmp_path: Path, marks: tuple[bool | None, ...], kept: list[int], last: int, later: list[int]
) -> None:
    committed(tmp_path, *marks)
    assert str(choose_checkpoint("last", tmp_path, "fit")).endswith(f"step-{last}/state.ckpt")
    assert passed_over(tmp_path) == [f"step-{number}" for number in later]
    prune(tmp_path, 2)
    assert sorted(int(path.name[5:]) for path in (tmp_path / "checkpoints").iterdir()) == kept
    assert latest_committed(tmp_path) == tmp_path / "checkpoints" / f"step-{last}" / "state.ckpt"
    assert passed_over(tmp_path) == [f"step-{number}" for number in later if number in kept]
