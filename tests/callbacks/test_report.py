"""The report of a run that trains: written after rounds and at the end, never the end of a run."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger

from evolvedirector.callbacks import EvolutionCallback, PreviewCallback, ReportCallback, RunSummary
from evolvedirector.callbacks import report as module
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.policies import EvolveDirectorPolicy
from evolvedirector.report import build
from tests import toys


@pytest.fixture(autouse=True)
def _small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_plotly", lambda: "const Plotly = {};")


class Breaks(pl.Callback):
    """Ends training with an error in the second epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("out of paint")


def train(folder: Path, *further: pl.Callback, data: Path | None = None) -> Path:
    seeds = toys.ToyPrompts(6)
    held = EvolvingDataModule(
        data or folder / "data", seeds=seeds, global_batch_size=4, batches_per_epoch=3, image_size_px=8
    )
    evolution = EvolutionCallback(
        {"toy": toys.ToyTeacher(cost_usd=0.01)}, toys.ToyJudge(), toys.ToyWriter(), EvolveDirectorPolicy(), Budget(20)
    )
    callbacks = [
        evolution,
        PreviewCallback(["tone 9"], 1, toys.ToyTeacher()),
        RunSummary(),
        ReportCallback(1.0),
        *further,
    ]
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=CSVLogger(folder, "logs"), max_epochs=3, callbacks=callbacks,
        reload_dataloaders_every_n_epochs=1, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(toys.ToyStudent(), datamodule=held)
    return folder / "report" / "index.html"


def data_of(page: str) -> dict[str, Any]:
    return json.loads(page.partition('id="data">')[2].partition("</script>")[0])


def test_a_finished_run_has_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = train(tmp_path, data=tmp_path / "elsewhere")
    page = path.read_text(encoding="utf-8")
    assert "The run came to its end at step 9." in page
    assert "Round 2" in page and "20 teacher calls" in page
    (strip,) = data_of(page)["film"]
    assert strip["prompt"] == "tone 9" and [step for step, _ in strip["frames"]] == [3, 6, 9]
    assert f"Report:  {path}" in capsys.readouterr().out
    noted = json.loads((tmp_path / "run.json").read_text())
    assert noted["state"] == "finished" and noted["versions"]["torch"]
    assert noted["pid"] == os.getpid() and noted["global_step"] == 9 and noted["log_dirs"] == ["logs/version_0"]


def test_after_an_error_the_report_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of paint"):
        train(tmp_path, Breaks())
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "ended early" in page and "(RuntimeError)" in page
    assert "Round 1" in page and "Round 2" not in page


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> str:
        raise OSError("the disk is full")

    monkeypatch.setattr(module, "build_report", fails)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = train(tmp_path)
    said = [str(warning.message) for warning in caught if "The report at step" in str(warning.message)]
    assert said and "the disk is full" in said[-1]
    assert not path.exists() and (tmp_path / "summary.json").exists()


def test_pages_keep_to_their_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [100.0], []

    def build_slowly(run: Any, thumbnails: Any) -> str:
        now[0] += 2.0
        written.append(now[0])
        return "page"

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "build_report", build_slowly)
    (tmp_path / "summary.json").write_text("{}")
    trainer = pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False)
    callback = ReportCallback(time_share=0.1)
    for _ in range(100):
        callback.on_train_epoch_end(trainer, toys.ToyStudent())
        now[0] += 1.0
    assert written == [102.0, 122.0, 142.0, 162.0, 182.0, 202.0]


class FullDisk(CSVLogger):
    """A logger that cannot write what it holds back."""

    def save(self) -> None:
        raise OSError("the disk is full")


def _trainer(folder: Path, *loggers: Logger) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=list(loggers) or False, enable_checkpointing=False
    )


def test_a_page_in_the_midst_of_training_needs_no_dataset_and_says_running(tmp_path: Path) -> None:
    trainer, callback = _trainer(tmp_path), ReportCallback()
    callback.setup(trainer, toys.ToyStudent(), "fit")
    assert json.loads((tmp_path / "run.json").read_text())["global_step"] is None, "no checkpoint has been read yet"
    callback.on_train_start(trainer, toys.ToyStudent())
    callback.on_train_epoch_end(trainer, toys.ToyStudent())
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "The run was going on when this page was written at step 0" in page


def test_a_failed_flush_costs_no_page(tmp_path: Path) -> None:
    trainer, callback = _trainer(tmp_path, FullDisk(tmp_path)), ReportCallback()
    callback.setup(trainer, toys.ToyStudent(), "fit")
    with pytest.warns(UserWarning, match="FullDisk could not be flushed"):
        callback.on_train_epoch_end(trainer, toys.ToyStudent())
    assert (tmp_path / "report" / "index.html").exists()


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"time_share is {share}"):
        ReportCallback(share)
