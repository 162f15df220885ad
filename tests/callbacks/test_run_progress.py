"""One bar on a terminal, a few plain lines elsewhere, and nothing left on the screen afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from evolvedirector.callbacks._run.round_bar import RoundBar
from evolvedirector.callbacks.run_progress import RunProgress, duration, total_steps
from evolvedirector.evolution.round_parts import Progress
from evolvedirector.records import RoundInfo
from tests import toys


class Loader:
    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[dict]:
        return iter([{"prompt": ["tone 100"], "image": torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)}] * 10)


class Logs(toys.ToyStudent):
    def training_step(self, batch: dict, batch_idx: int):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss, prog_bar=True)
        return loss


def fit(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, log_every_n_steps=1, callbacks=list(callbacks),
        enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.fit(Logs(), Loader())
    return trainer


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize(("lines", "expected"), [(10, 10), (3, 3), (0, 0)])
def test_without_a_terminal_a_line_is_said_each_part_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: int, expected: int
) -> None:
    fit(tmp_path, RunProgress(lines), max_steps=20)
    said = capsys.readouterr().out
    steps = [line for line in said.splitlines() if line.startswith("step ")]
    assert len(steps) == expected
    if steps:
        assert steps[-1].startswith("step 20 of 20, loss 0.") and " left" not in steps[-1] and " left" in steps[0]
    assert "\x1b" not in said


def test_on_a_terminal_there_is_one_bar_over_all_steps_and_rounds_join_it(
    tmp_path: Path, terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    class Round(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            with RoundBar(trainer, RoundInfo("r", 0, 2, 0, 0, "sha"), seeding=False) as bar:
                bar.report(Progress("judge", 3, 8, 3, 0, 0.0))
                bar.report(Progress("judge", 1, 5, 9, 0, 0.5))
                tasks = trainer.progress_bar_callback.progress.tasks
                assert [(task.completed, task.total) for task in tasks] == [(trainer.global_step, 20), (1, 5)]
            assert len(trainer.progress_bar_callback.progress.tasks) == 1

    progress = RunProgress()
    fit(tmp_path, progress, Round(), max_epochs=2)
    said = capsys.readouterr().out
    assert "/20" in said and "round 1/2 judge (judged 9, bought 0, $0.50)" in said
    assert "step " not in said
    assert progress.progress is None, "the terminal is given back"


def test_an_error_gives_the_terminal_back(tmp_path: Path, terminal: None) -> None:
    class Broken(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise OSError("disk gone")

    progress = RunProgress()
    with pytest.raises(OSError, match="disk gone"):
        fit(tmp_path, progress, Broken(), max_steps=20)
    assert progress.progress is None


def test_other_ranks_show_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress()
    progress.disable()
    fit(tmp_path, progress, max_steps=4)
    assert "step" not in capsys.readouterr().out


def test_no_colour_is_used_where_nobody_wants_it(
    tmp_path: Path, terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    fit(tmp_path, RunProgress(), max_steps=4)
    said = capsys.readouterr().out
    assert "/4" in said and "\x1b[3" not in said and "\x1b[38" not in said


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3}, 30),
        ({"max_steps": 7, "max_epochs": 3}, 7),
        ({"max_epochs": 1, "accumulate_grad_batches": 4}, 3),
    ],
)
def test_the_length_of_a_run_counts_optimizer_steps(tmp_path: Path, options: dict, steps: int) -> None:
    trainer = fit(tmp_path, RunProgress(0), **options)
    assert total_steps(trainer) == steps == trainer.global_step


def test_durations_read_like_speech() -> None:
    assert [duration(s) for s in (0.2, 59, 271, 7500)] == ["0 s", "59 s", "4 min 31 s", "2 h 5 min"]


def test_a_negative_number_of_lines_is_refused() -> None:
    with pytest.raises(ValueError, match=r"plain_lines is -1. Allowed: 0 or more. Write"):
        RunProgress(-1)
