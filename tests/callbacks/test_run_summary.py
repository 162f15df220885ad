import json
from pathlib import Path

import lightning.pytorch as pl

from evolvedirector.callbacks import EvolutionCallback, PreviewCallback, RunCheckpoint, RunSummary
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget, EvolveDirectorPolicy
from evolvedirector.evolution.summary import SUMMARY_KEYS
from tests import toys


def run(folder: Path, epochs: int, ckpt: Path | None = None) -> dict:
    data = EvolvingDataModule(
        folder / "data", seeds=toys.ToyPrompts(6), global_batch_size=4, batches_per_epoch=3, image_size_px=8
    )
    evolution = EvolutionCallback(
        {"toy": toys.ToyTeacher()}, toys.ToyJudge(), toys.ToyWriter(), EvolveDirectorPolicy(), Budget(20)
    )
    callbacks = [evolution, PreviewCallback(["tone 9"]), RunSummary(), RunCheckpoint()]
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, max_epochs=epochs, callbacks=callbacks,
        reload_dataloaders_every_n_epochs=1, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(toys.ToyStudent(), datamodule=data, ckpt_path=ckpt, weights_only=False if ckpt else None)
    return json.loads((folder / "summary.json").read_text())


def test_the_summary_has_its_keys_its_figures_and_says_where_to_look(tmp_path: Path, capsys) -> None:
    figures = run(tmp_path, 3)
    assert tuple(figures) == SUMMARY_KEYS
    assert figures["rounds"] == 2
    assert figures["teacher_calls"] == 20 == figures["live"] + figures["retired"]
    assert figures["images_seen"] == 3 * 3 * 4
    assert figures["accuracy"] is None and figures["accuracy_mean"] is None
    assert figures["teacher_share"] == {"tone": {"toy": 1.0}}
    assert figures["budget"]["budget_teacher_calls"] == 20
    said = capsys.readouterr().out
    assert "Spent: 20 teacher calls, " in said
    assert "accuracy" not in said and "Win rate" not in said, "what was not measured is not printed"
    assert f"Summary: {tmp_path / 'summary.json'}" in said
    assert f"Images:  {tmp_path / 'previews' / 'step-00000009.png'}" in said
    assert "round 1/2: judged 6, bought" in said


def test_counting_goes_on_after_a_resume(tmp_path: Path) -> None:
    first = run(tmp_path, 2)
    second = run(tmp_path, 4, latest_committed(tmp_path))
    assert second["images_seen"] == 2 * first["images_seen"] == 4 * 3 * 4
    assert second["wall_s"] > first["wall_s"]
