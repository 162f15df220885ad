"""Training from a root at a URL: the run that it would be from the folder, resume included; and rounds that push."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from jsonargparse import ArgumentParser

from evolvedirector.callbacks import EvolutionCallback, RunCheckpoint
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import UserError
from evolvedirector.evolution import Budget
from evolvedirector.evolution.background_rounds import BackgroundRounds
from evolvedirector.planning.roles import HasRoot, PushesRoot
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.store import RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.mirror import RootCache, local_root
from evolvedirector.store.push import push_root
from tests.store.remote_roots import clear_memory, objects_of, publish
from tests.toys import ToyJudge, ToyPrompts, ToyStudent, ToyTeacher, ToyWriter

URL = "memory://bucket/data"
PER_EPOCH, EPOCHS = 3, 3

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


@pytest.fixture(autouse=True)
def empty_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("EVOLVEDIRECTOR_CACHE", str(tmp_path / "cache of the user"))
    clear_memory()
    yield
    clear_memory()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "data", range(10), "import")
    publish(tmp_path / "data", range(10, 17), "round1")
    return tmp_path / "data"


class Toy(pl.LightningModule):
    """Learns from pixels, so that its weights tell what it has seen, and when."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)
        self.seen: list[tuple[str, ...]] = []

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        self.seen.append(tuple(batch["key"]))
        return self.layer(batch["image"].float().mean((2, 3)) / 255).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 0.1)


class Stop(Exception):
    """Ends a run in the middle."""


class Evolves(pl.Callback):
    """Opens the newest revision after the first epoch, and dies with a checkpoint where it is told to."""

    def __init__(self, sha: str, stop_at: int = 0, path: Path | None = None) -> None:
        self.sha, self.stop_at, self.path = sha, stop_at, path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.datamodule.open_revision(self.sha)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.stop_at:
            trainer.save_checkpoint(self.path)
            raise Stop


def train(data: EvolvingDataModule, callback: pl.Callback, checkpoint: Path | None = None) -> Toy:
    module = Toy()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        max_steps=PER_EPOCH * EPOCHS,
        callbacks=[callback],
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
    except Stop:
        return module
    return module


def data(root: Path | str, revision: str | None, cache: RootCache | None = None, **more: Any) -> EvolvingDataModule:
    shape = {"global_batch_size": 4, "batches_per_epoch": PER_EPOCH, "image_size_px": 8}
    return EvolvingDataModule(root, revision=revision, cache=cache, **{**shape, **more})


@pytest.mark.parametrize("stop_at", [2, 4, 7])
def test_a_run_from_a_url_is_the_run_from_the_folder_and_goes_on_on_another_machine(
    root: Path, tmp_path: Path, stop_at: int
) -> None:
    push_root(root, URL)
    first, second = RevisionFiles(root).shas()
    whole = train(data(root, first), Evolves(second))
    assert len(whole.seen) == PER_EPOCH * EPOCHS
    here, there = (RootCache(str(tmp_path / name), 1) for name in ("here", "there"))
    path = tmp_path / "run.ckpt"
    before = train(data(URL, first[:8], here), Evolves(second, stop_at, path))
    shutil.rmtree(tmp_path / "here")
    MemoryFileSystem().rm_file("/bucket/data/CURRENT")
    after = train(data(URL, None, there), Evolves(second), path)
    assert before.seen + after.seen == whole.seen
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), after.parameters(), strict=True))


def test_workers_read_through_the_cache_of_all(root: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    push_root(root, url)
    sha = RevisionFiles(root).current()
    assert sha is not None
    here = train(data(root, sha), Evolves(sha))
    there = train(data(url, None, RootCache(str(tmp_path / "cache")), num_workers=2), Evolves(sha))
    assert there.seen == here.seen
    assert all(torch.equal(a, b) for a, b in zip(here.parameters(), there.parameters(), strict=True))


def test_a_new_root_is_pushed_before_anybody_reads_it(tmp_path: Path) -> None:
    images = {"global_batch_size": 4, "batches_per_epoch": PER_EPOCH, "image_size_px": 8}
    datamodule = EvolvingDataModule(tmp_path / "data", ToyPrompts(6), remote=URL + "/", **images)  # type: ignore[arg-type]
    assert isinstance(datamodule, PushesRoot)
    assert isinstance(datamodule, HasRoot)
    datamodule.prepare_data()
    assert RevisionFiles(local_root(URL, RootCache(str(tmp_path / "cache")))).current() == datamodule.revision_sha


@pytest.mark.parametrize("mode", ["between_epochs", "background"])
def test_every_round_is_pushed_before_its_revision_is_trained_on(tmp_path: Path, mode: str) -> None:
    seen: dict[str, bool] = {}

    class Student(ToyStudent):
        def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
            sha = self.trainer.datamodule.revision_sha
            seen[sha] = any(sha[:12] in name for name in objects_of(URL))
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[_evolution(mode), RunCheckpoint()],
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=EPOCHS,
    )
    datamodule = data(tmp_path / "data", None, seeds=ToyPrompts(6), remote=URL)
    trainer.fit(Student(), datamodule=datamodule)
    assert len(seen) == EPOCHS + 1
    assert all(seen.values())
    sha = datamodule.revision_sha
    there = RevisionReader(URL, sha, cache=RootCache(str(tmp_path / "cache")))
    here = RevisionReader(tmp_path / "data", sha)
    assert [there.raw(row) for row in range(len(there))] == [here.raw(row) for row in range(len(here))]
    assert not any("ledger" in name or "blobs" in name for name in objects_of(URL))


def _evolution(mode: str = "between_epochs") -> EvolutionCallback:
    return EvolutionCallback(
        teachers={"toy": ToyTeacher()},
        judge=ToyJudge(),
        writer=ToyWriter(),
        policy=EvolveDirectorPolicy(expansions=1),
        budget=Budget(budget_teacher_calls=40),
        mode=mode,  # type: ignore[arg-type]
        background=BackgroundRounds(0, 0) if mode == "background" else None,
    )


def test_a_round_needs_a_root_in_a_folder(root: Path, tmp_path: Path) -> None:
    push_root(root, URL)
    evolution = _evolution()
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        reload_dataloaders_every_n_epochs=1,
        callbacks=[evolution, RunCheckpoint()],
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
    )
    with pytest.raises(StoreError, match="cannot be written to"):
        trainer.fit(ToyStudent(), datamodule=data(URL, None, RootCache(str(tmp_path / "cache"))))
    assert evolution.teachers["toy"].asked == []  # type: ignore[attr-defined]


def test_places_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="remote is 'somewhere'"):
        data(tmp_path / "data", None, remote="somewhere")
    with pytest.raises(UserError, match="only read, and pushed nowhere"):
        data(URL, None, RootCache(str(tmp_path / "cache")), remote=URL)
    with pytest.raises(UserError, match="user name or password"):
        data("s3://me:mine@bucket/data", None)
    with pytest.raises(StoreError, match="is no dataset root"):
        train(data(URL, None, RootCache(str(tmp_path / "cache"))), Evolves(""))


def test_a_config_names_a_url_and_a_cache(tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    options = {"root": "s3://bucket/data", "cache": {"folder": str(tmp_path), "max_gib": 20}}
    config = {"data": {"class_path": "evolvedirector.datamodules.EvolvingDataModule", "init_args": options}}
    parsed = parser.parse_object(config)
    datamodule = parser.instantiate_classes(parsed).data
    assert datamodule.data_root.parent == tmp_path
    dumped = io.StringIO(parser.dump(parsed)).read()
    assert "root: s3://bucket/data" in dumped
    assert "max_gib: 20" in dumped
