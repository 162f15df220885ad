"""Which checkpoint a command reads, what it says of one that cannot be used, and that nothing is bought before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - first here, so that its log handler keeps no test's captured stderr
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from evolvedirector.cli import main
from evolvedirector.commands.chosen_checkpoint import (
    averages_in,
    check_reader,
    check_resumable,
    choose_checkpoint,
    read_head,
)
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import ShardedStrategy

WHOLE = {
    "pytorch-lightning_version": "2.6.6",
    "global_step": 7,
    "state_dict": {"w": torch.zeros(2)},
    "loops": {},
    "optimizer_states": [],
    "lr_schedulers": [],
}


class Opaque:
    """An object whose class would have to be imported to read it."""


def commit(run: Path, step: int, content: Any = WHOLE) -> Path:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    state = folder / "state.ckpt"
    torch.save(content, state)
    marker = {"files": {"state.ckpt": state.stat().st_size}, "global_step": step, "order": step}
    (folder / "COMMIT.json").write_text(json.dumps(marker))
    return state


def test_words_that_do_not_train_take_the_newest_checkpoint(tmp_path: Path) -> None:
    assert choose_checkpoint(None, tmp_path, "fit") is choose_checkpoint("last", tmp_path, "fit") is None
    for written in (None, "last"):
        with pytest.raises(UserError, match=r"No finished checkpoint lies in .*untrained.*--ckpt_path none"):
            choose_checkpoint(written, tmp_path, "predict")
    assert choose_checkpoint("none", tmp_path, "predict") is None
    older, newer = commit(tmp_path, 3), commit(tmp_path, 7)
    assert choose_checkpoint(None, tmp_path, "fit") is None
    assert choose_checkpoint(None, tmp_path, "predict") == choose_checkpoint("last", tmp_path, "fit") == str(newer)
    assert choose_checkpoint(str(older.parent), tmp_path, "test") == str(older)  # its folder is enough
    with pytest.raises(UserError, match=f"No checkpoint lies at gone.ckpt.*--ckpt_path {newer}"):
        choose_checkpoint("gone.ckpt", tmp_path, "fit")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


UNUSABLE = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "cut": (cut, "is no checkpoint, or a damaged one"),
    "text": (lambda path: path.write_text("not a checkpoint"), "is no checkpoint, or a damaged one"),
    "picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "is no checkpoint, or a damaged one"),
    "archive": (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), "is no checkpoint, or a damaged one"),
    "weights": (lambda path: torch.save(WHOLE["state_dict"], path), "was not saved by a trainer of Lightning"),
    "tensor": (lambda path: torch.save(torch.zeros(1), path), "was not saved by a trainer of Lightning"),
    "objects": (
        lambda path: torch.save({**WHOLE, "hyper_parameters": Opaque()}, path),
        r"holds Python objects \(.*Opaque\)",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_is_no_checkpoint_is_one_sentence(spoil: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(WHOLE, path)
    assert read_head(str(path), weights_only=True)["global_step"] == 7
    spoil(path)
    with pytest.raises(UserError, match=said):
        read_head(str(path), weights_only=True)


def test_sharded_checkpoints_are_read_by_what_lies_beside_the_weights(tmp_path: Path) -> None:
    folder = commit(tmp_path, 7).parent
    (folder / "state.ckpt").unlink()
    (folder / "state.ckpt").mkdir()
    with pytest.raises(UserError, match="is damaged: a file of it is missing"):
        read_head(str(folder / "state.ckpt"), weights_only=True)
    (folder / "COMMIT.json").unlink()
    with pytest.raises(UserError, match=r"is a folder without meta\.pt"):
        read_head(str(folder / "state.ckpt"), weights_only=True)
    torch.save(
        {key: WHOLE[key] for key in WHOLE if key not in ("state_dict", "optimizer_states")}, tmp_path / "meta.pt"
    )
    check_resumable(read_head(str(tmp_path), weights_only=True), str(tmp_path))


def test_shards_are_refused_under_a_strategy_that_reads_one_file(tmp_path: Path) -> None:
    torch.save(WHOLE, tmp_path / "meta.pt")
    check_reader(str(tmp_path), ShardedStrategy())
    with pytest.raises(
        UserError, match=r"folder of shards, which DDPStrategy cannot read.*configs/strategy/fsdp\.yaml"
    ):
        check_reader(str(tmp_path), DDPStrategy())
    check_reader(str(tmp_path / "meta.pt"), DDPStrategy())  # a file


def test_weights_alone_are_evaluated_and_not_trained_on(tmp_path: Path) -> None:
    alone = {key: WHOLE[key] for key in WHOLE if key not in ("optimizer_states", "lr_schedulers")}
    torch.save(alone, tmp_path / "a.ckpt")
    head = read_head(str(tmp_path / "a.ckpt"), weights_only=True)
    with pytest.raises(UserError, match=r"lacks lr_schedulers, optimizer_states.*weights alone"):
        check_resumable(head, "a.ckpt")


def test_averages_count_once_there_are_some() -> None:
    assert averages_in({"ema": {"EMA": {"updates": 3, "weights": {"w": torch.ones(1)}}}})
    assert not averages_in({"ema": {"EMA": {"updates": 0, "weights": {}}}}) and not averages_in({})


STUDENT = """
import torch
from tests.toys import ToyStudent


class Student(ToyStudent):
    def __init__(self, width: int = 1, learning_rate: float = 0.05, adam: bool = False) -> None:
        super().__init__(learning_rate)
        self.more, self.adam = torch.nn.Linear(1, width), adam

    def configure_optimizers(self):
        return (torch.optim.AdamW if self.adam else torch.optim.SGD)(self.parameters(), self.learning_rate)

    def predict_step(self, batch, batch_idx):
        return self.generate(batch)

    def test_step(self, batch, batch_idx):
        return self.generate(batch)
"""
RUN = """
trainer:
  accelerator: cpu
  max_steps: 2
  limit_val_batches: 0
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: run
  reload_dataloaders_every_n_epochs: 1
  callbacks:
    - class_path: evolvedirector.callbacks.EvolutionCallback
      init_args:
        teachers: {toy: {class_path: tests.toys.ToyTeacher}}
        judge: {class_path: tests.toys.ToyJudge}
        writer: {class_path: tests.toys.ToyWriter}
        budget: {budget_teacher_calls: 4}
    - class_path: evolvedirector.callbacks.RunCheckpoint
    - class_path: evolvedirector.callbacks.ImageWriter
    - class_path: evolvedirector.callbacks.EMA
      init_args: {starts_at_step: 1}
model:
  class_path: toys_of_resume.Student
data:
  class_path: evolvedirector.datamodules.EvolvingDataModule
  init_args:
    root: run/data
    seeds: seeds.txt
    global_batch_size: 2
    batches_per_epoch: 2
    image_size_px: 8
    predict_prompts: prompts.txt
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of two steps in the current folder."""
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    (tmp_path / "toys_of_resume.py").write_text(STUDENT, encoding="utf-8")
    (tmp_path / "seeds.txt").write_text("tone 0\ntone 60\ntone 120\ntone 180\n", encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("tone 10\ntone 200\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    assert main(["fit", "-c", "run.yaml"]) in (None, 0)
    return tmp_path / "run"


@pytest.mark.slow
def test_a_run_goes_on_only_with_what_fits_and_evaluates_what_it_learned(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", "-c", "run.yaml", "--ckpt_path", "last", "--trainer.max_steps", "4"]
    config, state = (run / "config.yaml").read_text(), run / "checkpoints/step-00000002/state.ckpt"
    for flags, said in (
        (["--model.width", "2"], "more.weight has the shape (1, 1) there and (2, 1) here (and 1 more like it)"),
        (["--model.adam", "true"], "optimizer state of SGD, but the configuration names AdamW"),
    ):
        capsys.readouterr()
        assert main([*fit, *flags]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
        assert (run / "config.yaml").read_text() == config  # what was refused never held
    for word in ("predict", "test"):
        assert main([word, "-c", "run.yaml"]) in (None, 0)
        assert f"{word}: averaged (EMA) weights of {state.relative_to(run.parent)}, step 2." in capsys.readouterr().out
    drawn = [path.read_bytes() for path in sorted((run / "predictions").glob("*.png"))]
    assert len(drawn) == 2
    assert main([*fit, "--model.learning_rate", "0.01"]) in (None, 0)
    assert "changed since the checkpoint: lr 0.05 -> 0.01." in capsys.readouterr().out
    assert "learning_rate: 0.01" in (run / "config.yaml").read_text()
    assert main(["predict", "-c", "run.yaml", "--trainer.default_root_dir", "gone"]) == 2
    assert "No finished checkpoint lies in gone." in capsys.readouterr().err
    assert main(["predict", "-c", "run.yaml", "--ckpt_path", "none"]) in (None, 0)
    assert "predict: untrained weights, as --ckpt_path none asks." in capsys.readouterr().out
