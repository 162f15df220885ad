"""Each refusal of a host that a round could not work with says which line to write, before anything is bought."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from evolvedirector.callbacks import EvolutionCallback
from evolvedirector.callbacks._run.host_checks import steps_per_epoch, trains_on
from evolvedirector.callbacks.checkpoint import latest_committed
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.evolution import Budget
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.store import DatasetStore
from evolvedirector.store.imports import import_prompts
from tests.toys import ToyJudge, ToyPrompts, ToyStudent, ToyTeacher, ToyWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*")


def evolution(teacher: ToyTeacher | None = None, **settings: Any) -> EvolutionCallback:
    return EvolutionCallback(
        teachers={"toy": teacher or ToyTeacher()},
        judge=ToyJudge(),
        writer=ToyWriter(),
        policy=EvolveDirectorPolicy(expansions=1),
        budget=Budget(40),
        **settings,
    )


def data(root: Path) -> EvolvingDataModule:
    return EvolvingDataModule(root, ToyPrompts(4), global_batch_size=2, batches_per_epoch=2, image_size_px=8)


def trainer(folder: Path, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    wanted: dict[str, Any] = {"reload_dataloaders_every_n_epochs": 1, "max_epochs": 2} | settings
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **wanted,
    )


class Mute(pl.LightningModule):
    """Has no `generate`."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


class NoRoot(pl.LightningDataModule):
    """Holds no evolving data."""

    def train_dataloader(self) -> list[int]:
        return [1, 2]


class Unsized(EvolvingDataModule):
    """Its loader has no length."""

    def train_dataloader(self) -> Any:
        deliver = super().train_dataloader()._deliver

        class Stream:
            def __iter__(self) -> Iterator[Any]:
                yield from deliver()

        return Stream()


class Two(pl.LightningDataModule):
    """Two evolving datasets side by side; training reads the first."""

    def __init__(self, first: EvolvingDataModule, second: EvolvingDataModule) -> None:
        super().__init__()
        self.first, self.second = first, second

    def prepare_data(self) -> None:
        self.first.trainer = self.second.trainer = None  # they are parts here, no datamodules of the trainer
        self.first._processed = self.second._processed = lambda: None  # type: ignore[method-assign]
        for part in (self.first, self.second):
            part._position.revision_sha = None
            make_root(part)

    def train_dataloader(self) -> Any:
        self.second.train_dataloader()
        return self.first.train_dataloader()


def make_root(part: EvolvingDataModule) -> None:
    with DatasetStore(part.data_root, create=True) as store:
        if store.current() is None:
            import_prompts(store, ToyPrompts(4).prompts(), [])


@pytest.mark.parametrize(
    ("module", "datamodule", "settings", "line"),
    [
        (ToyStudent, data, {"reload_dataloaders_every_n_epochs": 0}, "reload_dataloaders_every_n_epochs: 1"),
        (ToyStudent, data, {"reload_dataloaders_every_n_epochs": 2}, "reload_dataloaders_every_n_epochs: 1"),
        (Mute, data, {}, r"def generate\(self, requests"),
        (ToyStudent, lambda root: NoRoot(), {}, "data_root: Path"),
    ],
)
def test_a_host_is_refused_before_anything_is_bought(
    tmp_path: Path,
    module: type[pl.LightningModule],
    datamodule: Callable[[Path], pl.LightningDataModule],
    settings: dict[str, Any],
    line: str,
) -> None:
    teacher = ToyTeacher()
    with pytest.raises(RuntimeError, match=line):
        trainer(tmp_path, evolution(teacher), **settings).fit(module(), datamodule=datamodule(tmp_path / "data"))
    assert teacher.asked == []


def test_no_datamodule_is_refused_with_the_lines_to_write(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"class_path: evolvedirector\.datamodules\.EvolvingDataModule"):
        trainer(tmp_path, evolution()).fit(ToyStudent(), train_dataloaders=[1])


def test_an_unsized_loader_is_refused(tmp_path: Path) -> None:
    unsized = Unsized(tmp_path / "data", ToyPrompts(4), global_batch_size=2, batches_per_epoch=2, image_size_px=8)
    with pytest.raises(RuntimeError, match="needs `__len__`"):
        trainer(tmp_path, evolution(), max_epochs=1).fit(ToyStudent(), datamodule=unsized)


def test_a_second_callback_on_the_same_root_is_refused(tmp_path: Path) -> None:
    class Same(EvolvingDataModule):
        @property
        def again(self) -> "Same":
            return self

    same = Same(tmp_path / "data", ToyPrompts(4), global_batch_size=2, batches_per_epoch=2, image_size_px=8)
    with pytest.raises(RuntimeError, match="data: NAME"):
        trainer(tmp_path, evolution(), evolution(data="again")).fit(ToyStudent(), datamodule=same)


def test_two_callbacks_on_two_roots_coexist(tmp_path: Path) -> None:
    parts = Two(data(tmp_path / "one"), data(tmp_path / "two"))
    teachers = [ToyTeacher("a"), ToyTeacher("b")]
    callbacks = [evolution(teachers[0], data="first"), evolution(teachers[1], data="second")]
    torch.manual_seed(0)
    trainer(tmp_path, *callbacks).fit(ToyStudent(), datamodule=parts)
    assert all(teacher.asked for teacher in teachers)
    assert callbacks[0].state_key != callbacks[1].state_key
    assert callbacks[0].state_dict()["rounds_done"] == callbacks[1].state_dict()["rounds_done"] == 1
    assert len(list((tmp_path / "checkpoints").glob("step-*-round-*"))) == 2


def test_a_kill_in_the_first_ones_round_leaves_the_second_one_its_own(tmp_path: Path) -> None:
    class Failing(ToyJudge):
        def look(self, pairs: Any) -> Any:
            raise RuntimeError("no power")
            yield

    def run(judge: ToyJudge, ckpt: Path | None) -> list[int]:
        first, second = evolution(data="first"), evolution(data="second")
        first.judge = judge
        torch.manual_seed(0)
        parts = Two(data(tmp_path / "one"), data(tmp_path / "two"))
        trainer(tmp_path, first, second).fit(ToyStudent(), datamodule=parts, ckpt_path=ckpt)
        return [first.state_dict()["rounds_done"], second.state_dict()["rounds_done"]]

    with pytest.raises(RuntimeError, match="no power"):
        run(Failing(), None)
    assert run(ToyJudge(), latest_committed(tmp_path)) == [1, 1]


def state(**changes: Any) -> Any:
    settings = {"max_epochs": 10, "max_steps": -1, "global_step": 100, "should_stop": False}
    return SimpleNamespace(**{**settings, "num_training_batches": 50, "accumulate_grad_batches": 5, **changes})


@pytest.mark.parametrize("end", [{"max_epochs": 4}, {"max_steps": 100}, {"should_stop": True}])
def test_training_ends_by_epochs_by_steps_or_when_told_to(end: dict[str, Any]) -> None:
    assert trains_on(state(), 4) and not trains_on(state(**end), 4)


def test_a_running_training_counts_its_optimizer_steps() -> None:
    assert steps_per_epoch(state(max_epochs=-1, max_steps=40)) == 10
    assert steps_per_epoch(state()) is None
