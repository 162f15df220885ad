"""A project that imports `pytorch_lightning`, the other package of the same classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import UserError
from evolvedirector.evolution import Budget
from evolvedirector.policies import EvolveDirectorPolicy
from evolvedirector.store import DatasetStore
from tests.toys import ToyJudge, ToyPrompts, ToyStudent, ToyTeacher, ToyWriter

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_callback_and_datamodule_work_in_its_trainer(tmp_path: Path) -> None:
    other = pytest.importorskip("pytorch_lightning")

    class Student(other.LightningModule):  # type: ignore[misc]
        image_size_px = 8

        def __init__(self) -> None:
            super().__init__()
            self.toy = ToyStudent()

        def training_step(self, batch, batch_idx):
            return self.toy.training_step(batch, batch_idx)

        def generate(self, requests):
            return self.toy.generate(requests)

        def configure_optimizers(self):
            return self.toy.configure_optimizers()

    class Data(EvolvingDataModule, other.LightningDataModule):  # type: ignore[misc]
        pass

    def fit(kind: type[EvolvingDataModule]) -> None:
        evolution = EvolutionCallback(
            {"toy": ToyTeacher()}, ToyJudge(), ToyWriter(), EvolveDirectorPolicy(expansions=1), Budget(20)
        )
        trainer = other.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_epochs=2,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[evolution],
            logger=False,
            enable_progress_bar=False,
        )
        data = kind(tmp_path / "data", ToyPrompts(4), global_batch_size=2, batches_per_epoch=2, image_size_px=8)
        trainer.fit(Student(), datamodule=data)

    with pytest.raises(UserError, match=r"class Data\(EvolvingDataModule, pytorch_lightning\.LightningDataModule\)"):
        fit(EvolvingDataModule)
    assert not (tmp_path / "data").exists()
    fit(Data)
    with DatasetStore(tmp_path / "data") as store:
        assert [row.global_step for row in store.ledger.rounds.all()] == [2]
