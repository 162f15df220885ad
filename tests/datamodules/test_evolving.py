"""The datamodule under real trainers: the order after a resume is that of a run that was never interrupted."""

import io
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image

from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore

PER_EPOCH = 4
EPOCHS = 4

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*litmodels.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 255 - number)).save(buffer, "PNG")
    return buffer.getvalue()


def publish(store: DatasetStore, parent: str | None, name: str, numbers: range) -> str:
    """Publish one revision with these numbered samples added."""
    prompts = [Prompt.create(f"thing number {n}", skill=f"skill{n % 2}") for n in numbers]
    names = store.blobs.put_many([png(n) for n in numbers])
    samples = tuple(Sample.create(p, s, "toy") for p, s in zip(prompts, names, strict=True))
    return store.publish(parent, name, RevisionChange(samples=samples))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with two revisions; the newest is the second."""
    with DatasetStore(tmp_path / "data", create=True) as store:
        first = publish(store, None, "import", range(10))
        publish(store, first, "round1", range(10, 17))
    return tmp_path / "data"


def revisions(root: Path) -> list[str]:
    with DatasetStore(root) as store:
        second = store.current()
        assert second is not None
        first = store.revision(second).parent_sha
    assert first is not None
    return [first, second]


class Toy(pl.LightningModule):
    """Notes the keys of every batch it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, tuple[str, ...], tuple[int, ...]]] = []
        self.requests: list[list[str]] = []

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, tuple(batch["key"]), tuple(batch["sample_seed"].tolist())))
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: list, index: int) -> None:
        self.requests.append([request.request_id for request in batch])

    test_step = validation_step

    def predict_step(self, batch: list, index: int) -> list[str]:
        return [request.prompt for request in batch]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Stop(Exception):
    """Ends a run in the middle."""


class Evolve(pl.Callback):
    """Opens the second revision at the end of an epoch, and saves and dies where it is told to."""

    def __init__(self, second: str, save_at: str = "", path: Path | None = None) -> None:
        self.second, self.save_at, self.path = second, save_at, path

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.datamodule.open_revision(self.second)
        self._save(trainer, f"epoch{trainer.current_epoch}")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Toy, *_: object) -> None:
        self._save(trainer, f"batch{len(module.seen)}")

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, error: BaseException) -> None:
        if self.save_at == "exception":
            trainer.save_checkpoint(self.path)

    def _save(self, trainer: pl.Trainer, where: str) -> None:
        if where == self.save_at:
            trainer.save_checkpoint(self.path)
            raise Stop


def trainer_for(mode: str, accumulate: int, *callbacks: pl.Callback) -> pl.Trainer:
    steps = PER_EPOCH * EPOCHS // accumulate
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
        **({"max_steps": steps} if mode == "steps" else {"max_epochs": EPOCHS}),
    )


def data(root: Path, **options: object) -> EvolvingDataModule:
    first = revisions(root)[0]
    settings = {"global_batch_size": 3, "batches_per_epoch": PER_EPOCH, "image_size_px": 8, "revision": first}
    return EvolvingDataModule(root, **{**settings, **options})


def uninterrupted(root: Path, mode: str, accumulate: int = 1) -> list:
    module = Toy()
    trainer_for(mode, accumulate, Evolve(revisions(root)[1])).fit(module, datamodule=data(root))
    return module.seen


@pytest.mark.parametrize("mode", ["steps", "epochs"])
@pytest.mark.parametrize("save_at", ["batch1", "batch4", "batch6", "batch10", "epoch0", "epoch1", "epoch2"])
def test_resume_goes_on_exactly(root: Path, tmp_path: Path, mode: str, save_at: str) -> None:
    whole = uninterrupted(root, mode)
    assert [len(whole), {epoch for epoch, *_ in whole}] == [PER_EPOCH * EPOCHS, set(range(EPOCHS))]
    second, path = revisions(root)[1], tmp_path / "run.ckpt"
    before, after = Toy(), Toy()
    with pytest.raises(Stop):
        trainer_for(mode, 1, Evolve(second, save_at, path)).fit(before, datamodule=data(root))
    trainer_for(mode, 1, Evolve(second)).fit(after, datamodule=data(root), ckpt_path=path)
    assert before.seen + after.seen == whole


@pytest.mark.parametrize("save_at", ["batch3", "batch6", "epoch1"])
def test_resume_with_accumulation_and_workers(root: Path, tmp_path: Path, save_at: str) -> None:
    whole = uninterrupted(root, "steps", 2)
    second, path = revisions(root)[1], tmp_path / "run.ckpt"
    before, after = Toy(), Toy()
    with pytest.raises(Stop):
        trainer_for("steps", 2, Evolve(second, save_at, path)).fit(before, datamodule=data(root, num_workers=2))
    trainer_for("steps", 2, Evolve(second)).fit(after, datamodule=data(root), ckpt_path=path)
    keys = [keys for _, keys, _ in before.seen + after.seen]
    assert keys == [keys for _, keys, _ in whole][: len(keys)]
    assert len(keys) >= PER_EPOCH * EPOCHS


def test_an_interrupted_batch_is_trained_on_after_resume(root: Path, tmp_path: Path) -> None:
    class Fails(Toy):
        def training_step(self, batch: dict, index: int) -> torch.Tensor:
            if len(self.seen) == 6:
                raise Stop
            return super().training_step(batch, index)

    whole = uninterrupted(root, "steps")
    second, path = revisions(root)[1], tmp_path / "run.ckpt"
    before, after = Fails(), Toy()
    with pytest.raises(Stop):
        trainer_for("steps", 1, Evolve(second, "exception", path)).fit(before, datamodule=data(root))
    trainer_for("steps", 1, Evolve(second)).fit(after, datamodule=data(root), ckpt_path=path)
    assert before.seen + after.seen == whole
