"""Checkpoints are whole or do not count, and the newest commit is what `last` means."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import SingleDeviceStrategy

from evolvedirector.callbacks.checkpoint import RunCheckpoint, latest_committed, prune, save_committed
from evolvedirector.errors import UserError


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[int] = []

    def training_step(self, batch: int, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch)
        return self.layer(torch.full((1, 1), float(batch))).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-3)


class Counter:
    """A sized loader of three batches an epoch that counts on for ever and can resume."""

    def __init__(self, start: int = 0) -> None:
        self.delivered = start

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        for _ in range(3 - self.delivered % 3):
            self.delivered += 1
            yield self.delivered - 1

    def state_dict(self) -> dict[str, int]:
        return {"delivered": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.delivered = state["delivered"]


def trainer_in(folder: Path, callback: Checkpoint, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {"max_epochs": 3, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return Trainer(default_root_dir=folder, callbacks=[callback], enable_model_summary=False, **{**defaults, **options})


def fit(folder: Path, callback: Checkpoint, ckpt_path: Path | None = None, **options: Any) -> Line:
    module = Line()
    trainer_in(folder, callback, **options).fit(module, Counter(), ckpt_path=ckpt_path, weights_only=True)
    return module


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def write_checkpoint(folder: Path, name: str, global_step: int, order: int, committed: bool = True) -> Path:
    path = folder / "checkpoints" / name
    path.mkdir(parents=True)
    (path / "state.ckpt").write_bytes(b"state")
    marker = {"files": {"state.ckpt": 5}, "global_step": global_step, "order": order, "revision_sha": None}
    if committed:
        (path / "COMMIT.json").write_text(json.dumps(marker))
    return path


def test_epochs_are_saved_and_the_newest_two_are_kept(tmp_path: Path) -> None:
    fit(tmp_path, RunCheckpoint())
    assert names(tmp_path) == ["step-00000006", "step-00000009"]
    assert latest_committed(tmp_path) == tmp_path / "checkpoints/step-00000009/state.ckpt"
    assert torch.load(latest_committed(tmp_path), weights_only=True)["global_step"] == 9


def test_lightning_adds_no_checkpoints_of_its_own(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, RunCheckpoint())
    assert [type(callback) for callback in trainer.checkpoint_callbacks] == [RunCheckpoint]


@pytest.mark.parametrize("every_n_train_steps", [1, 2])
def test_resume_from_any_step_sees_the_batches_of_an_uninterrupted_run(
    tmp_path: Path, every_n_train_steps: int
) -> None:
    whole = fit(tmp_path / "whole", RunCheckpoint(every_n_epochs=0))
    fit(tmp_path / "parts", RunCheckpoint(0, every_n_train_steps, keep_last=99))
    for path in (tmp_path / "parts" / "checkpoints").iterdir():
        step = int(path.name.removeprefix("step-"))
        resumed = fit(tmp_path / "again", RunCheckpoint(every_n_epochs=0), ckpt_path=path / "state.ckpt")
        if step % 3 == 0:  # between epochs Lightning makes a new loader; its position is then the datamodule's to keep
            assert len(resumed.seen) == 9 - step
            continue
        assert resumed.seen == list(range(step, 9)), path.name
        assert torch.equal(resumed.layer.weight, whole.layer.weight)


def test_steps_count_optimizer_steps_not_accumulated_batches(tmp_path: Path) -> None:
    fit(tmp_path, RunCheckpoint(0, every_n_train_steps=1, keep_last=99), accumulate_grad_batches=3)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


def test_the_end_of_training_is_saved_when_no_epoch_was(tmp_path: Path) -> None:
    fit(tmp_path, RunCheckpoint(every_n_epochs=2))
    assert names(tmp_path) == ["step-00000006", "step-00000009"]


def test_one_file_is_not_written_beside_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"asynchronous is true, but SingleDeviceStrategy writes one file"):
        fit(tmp_path, RunCheckpoint(asynchronous=True))


def test_files_without_a_commit_do_not_count_and_are_cleared_at_the_next_start(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "step-00000003", 3, order=1)
    write_checkpoint(tmp_path, "step-00000006", 6, order=2, committed=False)
    assert latest_committed(tmp_path) == tmp_path / "checkpoints/step-00000003/state.ckpt"
    trainer = trainer_in(tmp_path, RunCheckpoint())
    RunCheckpoint().setup(trainer, Line(), "fit")
    assert names(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize("damage", ["truncated", "missing", "marker"])
def test_a_damaged_checkpoint_does_not_count(tmp_path: Path, damage: str) -> None:
    write_checkpoint(tmp_path, "step-00000003", 3, order=1)
    newest = write_checkpoint(tmp_path, "step-00000006", 6, order=2)
    if damage == "truncated":
        (newest / "state.ckpt").write_bytes(b"st")
    elif damage == "missing":
        (newest / "state.ckpt").unlink()
    else:
        (newest / "COMMIT.json").write_text('{"files"')
    assert latest_committed(tmp_path).parent.name == "step-00000003"


def test_nothing_committed_is_none(tmp_path: Path) -> None:
    assert latest_committed(tmp_path) is None
    assert latest_committed(tmp_path / "missing") is None


class SavesThreeTimes(Checkpoint):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name in ("step-00000003-round", "step-00000003", "step-00000003"):
            save_committed(trainer, Path(trainer.default_root_dir), name)


def test_one_step_saved_more_than_once_gets_new_names_and_the_last_commit_is_newest(tmp_path: Path) -> None:
    fit(tmp_path, SavesThreeTimes(), max_epochs=1)
    assert names(tmp_path) == ["step-00000003", "step-00000003-2", "step-00000003-round"]
    assert latest_committed(tmp_path).parent.name == "step-00000003-2"


def test_order_is_that_of_commits_so_a_run_that_went_back_goes_on_from_there(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "step-00000900", 900, order=1)
    write_checkpoint(tmp_path, "step-00000600-2", 600, order=2)
    assert latest_committed(tmp_path).parent.name == "step-00000600-2"


def test_pruning_spares_pinned_checkpoints(tmp_path: Path) -> None:
    for order in range(1, 5):
        write_checkpoint(tmp_path, f"step-0000000{order}", order, order)
    (tmp_path / "checkpoints/step-00000001/pinned").touch()
    prune(tmp_path, keep_last=2)
    assert names(tmp_path) == ["step-00000001", "step-00000003", "step-00000004"]


def test_a_full_disk_leaves_older_checkpoints_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = write_checkpoint(tmp_path, "step-00000001", 1, order=1)

    def full(self: Trainer, path: Path, *args: Any, **kwargs: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    with pytest.raises(OSError, match=r"step-00000003 could not be written .*No space left.*untouched") as caught:
        fit(tmp_path, RunCheckpoint())
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == [older.name]
    assert latest_committed(tmp_path) == older / "state.ckpt"


def test_the_commit_names_the_revision_that_training_read(tmp_path: Path) -> None:
    class Data(LightningDataModule):
        revision_sha = "abc123"

    module, trainer = Line(), trainer_in(tmp_path, RunCheckpoint(every_n_epochs=0), max_epochs=1)
    trainer.fit(module, Counter())
    trainer.datamodule = Data()
    marker = json.loads((save_committed(trainer, tmp_path, "step-00000003").parent / "COMMIT.json").read_text())
    assert marker["revision_sha"] == "abc123"
    assert marker["global_step"] == 3


class Beside(SingleDeviceStrategy):
    """Hands what is to be called at the end of writing to a test."""

    saves_shards = True

    @contextmanager
    def saving_beside(self, then: Callable[[], None]) -> Iterator[None]:
        self.then = then
        yield

    def finish_saving(self) -> None:
        return None


def test_what_a_thread_may_still_write_is_not_cut_by_a_rank_that_is_gone(tmp_path: Path) -> None:
    """Half of its files, deleted under its hands, would be committed as the whole."""
    strategy = Beside("cpu")
    trainer: Any = trainer_in(tmp_path, RunCheckpoint(every_n_epochs=0), max_epochs=1, strategy=strategy)
    trainer.fit(Line(), Counter())

    def save(path: Path, **_: Any) -> None:
        path.mkdir()
        (path / "first").write_bytes(b"shard")
        raise RuntimeError("Connection closed by peer")

    trainer.save_checkpoint = save
    with pytest.raises(OSError, match="Connection closed by peer"):
        save_committed(trainer, tmp_path, "step-00000009", beside=True)
    state = tmp_path / "checkpoints" / "step-00000009" / "state.ckpt"
    assert latest_committed(tmp_path) != state
    (state / "second").write_bytes(b"shard")
    strategy.then()
    assert latest_committed(tmp_path) == state and (state / "first").exists()


@pytest.mark.parametrize("name", ["epoch-3", "step-../../x", "step-", "step-3/x"])
def test_names_outside_the_scheme_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no checkpoint name"):
        save_committed(trainer_in(tmp_path, RunCheckpoint()), tmp_path, name)


@pytest.mark.parametrize("arguments", [{"every_n_epochs": -1}, {"every_n_train_steps": 0}, {"keep_last": 0}])
def test_numbers_out_of_range_are_refused_with_what_to_write(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Write "):
        RunCheckpoint(**arguments)
