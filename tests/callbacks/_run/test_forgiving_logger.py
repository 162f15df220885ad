"""A logger that fails costs one warning; what works gets the same names everywhere."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from evolvedirector.callbacks import PreviewCallback
from evolvedirector.callbacks._run.forgiving_logger import ForgivingLogger, redacted
from evolvedirector.callbacks._run.to_loggers import log_figures, log_picture
from tests import toys


class Stub(Logger):
    """A service that answers `answers` times and then no more; it remembers what it was told."""

    def __init__(self, answers: int = 1000) -> None:
        super().__init__()
        self.answers, self.figures, self.pictures = answers, [], []

    name, version = "stub", "0"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.answer()
        self.figures.append((dict(metrics), step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.params = params

    def log_image(self, key: str, images: list, step: int | None = None) -> None:
        self.answer()
        self.pictures.append((key, images[0].size, step))

    def answer(self) -> None:
        self.answers -= 1
        if self.answers < 0:
            raise ConnectionError("the service does not answer")


class Loader:
    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[dict]:
        return iter([{"prompt": ["tone 100"], "image": torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)}] * 2)


class Logs(toys.ToyStudent):
    def training_step(self, batch: dict, batch_idx: int):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss


def trainer_with(folder: Path, *loggers: Logger, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=list(loggers) or False, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip


def fit(folder: Path, *loggers: Logger, epochs: int = 2, **options: Any) -> pl.Trainer:
    trainer = trainer_with(folder, *loggers, max_epochs=epochs, callbacks=[PreviewCallback(["tone 9"], 1)], **options)
    trainer.fit(Logs(), Loader())
    return trainer


def test_what_works_gets_figures_pictures_and_steps_that_rise(tmp_path: Path) -> None:
    stub = Stub()
    fit(tmp_path, ForgivingLogger(stub))
    assert [step for figures, step in stub.figures if "train/loss" in figures] == [0, 1, 2, 3]
    assert [(key, step) for key, _, step in stub.pictures] == [
        ("previews/student_and_teacher", 2), ("previews/student_and_teacher", 4),
    ]  # fmt: skip


@pytest.mark.parametrize("answers", [0, 1, 2, 3])
def test_a_service_that_fails_half_way_is_one_warning_and_the_other_logger_goes_on(
    tmp_path: Path, answers: int
) -> None:
    healthy = Stub()
    with pytest.warns(UserWarning, match="Stub is left out of this run, training goes on: ConnectionError") as caught:
        trainer = fit(tmp_path, ForgivingLogger(Stub(answers)), ForgivingLogger(healthy))
    assert len([w for w in caught if "left out" in str(w.message)]) == 1
    assert trainer.global_step == 4
    assert len(healthy.pictures) == 2


def test_a_hosts_plain_logger_is_forgiven_what_our_callbacks_send(tmp_path: Path) -> None:
    stub = Stub(0)
    trainer = trainer_with(tmp_path, stub)
    with pytest.warns(UserWarning, match="Stub is left out") as caught:
        log_picture(trainer, "previews/x", Image.new("RGB", (4, 4)))
        log_figures(trainer, {"rounds/bought": 1})
    assert len(caught) == 1
    assert trainer.logger is stub, "its class stays what the host expects"


def test_no_logger_at_all_is_fine(tmp_path: Path) -> None:
    trainer = fit(tmp_path)
    log_figures(trainer, {"rounds/bought": 1, "rounds/win_rate": None})
    assert trainer.loggers == []


def test_a_csv_file_has_the_same_names_and_a_resume_goes_on_in_steps(tmp_path: Path) -> None:
    trainer = fit(tmp_path, ForgivingLogger(CSVLogger(tmp_path, name="logs")), epochs=1)
    log_figures(trainer, {"cost/usd": 0.5, "rounds/win_rate": None})
    trainer.logger.save()
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    again = trainer_with(tmp_path, ForgivingLogger(CSVLogger(tmp_path, name="logs")), max_epochs=2)
    again.fit(Logs(), Loader(), ckpt_path=tmp_path / "state.ckpt", weights_only=False)
    first, second = (
        list(csv.DictReader((tmp_path / f"logs/version_{n}/metrics.csv").read_text().splitlines())) for n in (0, 1)
    )
    assert set(first[0]) == {"epoch", "step", "train/loss", "cost/usd"}
    assert [row["step"] for row in second if row["train/loss"]] == ["2", "3"]


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path: Path, kind: type[Logger]) -> None:
    (tmp_path / "logs").write_text("a file stands where the folder should be")
    with pytest.warns(UserWarning, match=f"{kind.__name__} is left out") as caught:
        trainer = fit(tmp_path, ForgivingLogger(lambda: kind(tmp_path, name="logs"), kind.__name__))
    assert len([w for w in caught if "left out" in str(w.message)]) == 1
    assert trainer.global_step == 4 and not trainer.logger.works


def test_a_package_that_is_missing_is_a_warning_with_the_line_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.warns(UserWarning, match=r"WandbLogger is left out .* `pip install wandb`"):
        logger = ForgivingLogger(lambda: WandbLogger(project="x"), "WandbLogger")
    assert not logger.works
    assert (logger.name, logger.version, logger.save_dir, logger.log_dir) == (None, None, None, None)
    logger.log_metrics({"a": 1.0}, 0), logger.log_text("a", ["b"]), logger.experiment.add_image("a"), logger.save()


def test_wandb_that_wants_a_key_is_a_warning_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from here W&B is a module whose `init` raises; the real one does so without a key or a network."""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/__init__.py").write_text("run = None\ndef init(**options): raise RuntimeError('no key of mine')")
    for name in ("sdk/lib", "wandb_run"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    (tmp_path / "wandb/sdk/__init__.py").write_text("")
    (tmp_path / "wandb/sdk/lib/__init__.py").write_text("class RunDisabled: pass")
    (tmp_path / "wandb/wandb_run/__init__.py").write_text("class Run: pass")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    with pytest.warns(UserWarning, match=r"no key of mine\. Write `offline: true` .* `wandb login`") as caught:
        trainer = fit(tmp_path / "run", ForgivingLogger(lambda: WandbLogger(project="x"), "WandbLogger"))
    assert trainer.global_step == 4
    assert len([w for w in caught if "left out" in str(w.message)]) == 1


def test_no_secret_reaches_a_warning_or_the_hyperparameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "s3cr3t-value")
    assert redacted("refused key s3cr3t-value.") == "refused key <SOME_API_KEY>."
    stub = Stub()
    ForgivingLogger(stub).log_hyperparams({"judge": {"api_key": "s3cr3t-value", "api_key_env": "SOME_API_KEY"}})
    assert stub.params == {"judge": {"api_key": "<not shown>", "api_key_env": "SOME_API_KEY"}}


def test_it_travels_to_a_process_that_is_spawned(tmp_path: Path) -> None:
    logger = pickle.loads(pickle.dumps(ForgivingLogger(CSVLogger(tmp_path, name="logs", version=3))))
    assert (logger.name, logger.version) == ("logs", 3)
    with pytest.raises(AttributeError):
        logger.nothing_of_the_kind  # noqa: B018
