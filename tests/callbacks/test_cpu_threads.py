"""The number of threads is timed once, said, kept in checkpoints, and never fought over with who stated it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from evolvedirector.callbacks import CpuThreads, cpu_threads
from evolvedirector.callbacks.cpu_threads import best_count, thread_counts, times_of_steps
from evolvedirector.errors import UserError
from tests.toys import ToyStudent

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*does not have many workers.*")

BATCH = {"prompt": ["tone 9"], "image": torch.zeros(1, 3, 8, 8)}


class Data(pl.LightningDataModule):
    """One batch, and the same as a placeholder."""

    def placeholder_batch(self) -> dict[str, Any]:
        return BATCH

    def train_dataloader(self) -> DataLoader:
        return DataLoader([BATCH] * 2, batch_size=None)


class Seen(pl.Callback):
    """Notes the threads at every step."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.threads.append(torch.get_num_threads())


def fit(folder: Path, threads: Any, steps: int, checkpoint: Path | None = None, data: Any = None) -> list[int]:
    seen = Seen()
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=steps, logger=False,
        callbacks=[CpuThreads(threads), seen],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(ToyStudent(), datamodule=data or Data(), ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return seen.threads


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody states a number; with 2 threads a step is shortest. Returns how often a step was timed."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cpu_threads, "_own_cores", lambda: 4)
    timed: list[float] = []

    def times(counts: list[int], step: Any, agree: Any) -> dict[int, float]:
        step()
        timed.append(1)
        return {count: 0.1 + abs(count - 2) / 10 for count in counts}

    monkeypatch.setattr(cpu_threads, "times_of_steps", times)
    return timed


def test_auto_takes_the_fastest_says_so_and_a_resumed_run_keeps_it(
    tmp_path: Path, four_cores: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    assert fit(tmp_path, "auto", 2) == [2, 2]
    assert "cpu_threads: 2 (a training step takes 200 ms with 1, 100 ms with 2, 300 ms with 4)." in (
        capsys.readouterr().out
    )
    assert fit(tmp_path, "auto", 4, tmp_path / "last.ckpt") == [2, 2]
    assert "cpu_threads: 2 (as in the checkpoint)." in capsys.readouterr().out
    assert len(four_cores) == 1
    assert fit(tmp_path, 1, 6, tmp_path / "last.ckpt") == [1, 1]
    assert "cpu_threads: 1, changed since the checkpoint (2)." in capsys.readouterr().out
    assert torch.get_num_threads() == before


def test_a_number_that_is_stated_is_not_timed(
    tmp_path: Path, four_cores: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert fit(tmp_path, "auto", 1) == [3]
    assert "cpu_threads: 3 (as OMP_NUM_THREADS says)." in capsys.readouterr().out
    assert four_cores == []


def test_data_without_placeholders_leave_the_number_and_say_why(
    tmp_path: Path, four_cores: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    class Foreign(Data):
        placeholder_batch = None  # type: ignore[assignment]

    fit(tmp_path, "auto", 1, data=Foreign())
    assert "not timed, because Foreign has no `placeholder_batch()`" in capsys.readouterr().out


def test_numbers_are_timed_in_turn_and_hopeless_ones_once() -> None:
    asked: list[int] = []
    clock = iter(range(10_000))

    def step() -> None:
        count = torch.get_num_threads()
        asked.append(count)
        for _ in range({1: 10, 2: 12, 4: 40}[count] + 500 * (len(asked) == 1)):  # the first of a process warms up
            next(clock)

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_threads.time, "perf_counter", lambda: float(next(clock)))
        times_s = times_of_steps([1, 2, 4], step)
    torch.set_num_threads(before)
    assert asked == [1, 1, 2, 4, *[1, 2] * cpu_threads.REPEATS]
    assert times_s == {1: 11, 2: 13, 4: 41}


@pytest.mark.parametrize(("cores", "counts"), [(0, [1]), (1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_counts_reach_to_all_cores(cores: int, counts: list[int]) -> None:
    assert thread_counts(cores) == counts


def test_of_numbers_that_are_as_fast_the_smallest_is_taken() -> None:
    assert best_count({1: 1.04, 2: 1.0, 4: 1.01}) == 1
    assert best_count({1: 1.2, 2: 1.0, 4: 0.99}) == 2


def test_a_number_below_1_is_refused() -> None:
    with pytest.raises(UserError, match=r"cpu_threads is 0\. Allowed: 1 or more, or auto"):
        CpuThreads(0)
