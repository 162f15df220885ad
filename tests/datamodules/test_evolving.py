"""The datamodule under real trainers: the order after a resume is that of a run that was never interrupted."""

import io
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.records import Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, StoreError, edits
from evolvedirector.store.imports import import_prompts
from evolvedirector.store.latents import LatentFiles

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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_what_training_needs(root: Path, workers: int) -> None:
    batches = list(data(root, num_workers=workers, image_size_px=4).train_dataloader())
    assert len(batches) == PER_EPOCH
    for batch in batches:
        assert batch["image"].shape == (3, 3, 4, 4) and batch["image"].dtype == torch.uint8
        assert batch["sample_seed"].shape == (3,) and batch["sample_seed"].dtype == torch.int64
        for n in range(3):
            number = int(batch["prompt"][n].split()[-1])
            assert batch["skill"][n] == f"skill{number % 2}"
            assert batch["key"][n].startswith(Prompt.create(batch["prompt"][n]).id)
            assert batch["image"][n, :, 0, 0].tolist() == [number, 0, 255 - number]


def test_reading_leaves_the_global_generator_alone(root: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(data(root).train_dataloader())
    assert torch.equal(before, torch.get_rng_state())


class World(EvolvingDataModule):
    """Reads as one rank of several, without starting them."""

    rank_and_world_size = (0, 1)

    def _rank_and_world_size(self) -> tuple[int, int]:
        return self.rank_and_world_size


def test_the_order_does_not_depend_on_the_number_of_ranks(root: Path) -> None:
    whole = list(data(root, global_batch_size=6).train_dataloader())
    state = None
    for world_size in (1, 2, 3):
        parts, states = [], []
        for rank in range(world_size):
            module = World(root, global_batch_size=6, batches_per_epoch=PER_EPOCH, revision=revisions(root)[0])
            module.rank_and_world_size = (rank, world_size)
            parts.append(list(module.train_dataloader()))
            states.append(module.state_dict())
        for number, batch in enumerate(whole):
            assert [key for part in parts for key in part[number]["key"]] == batch["key"]
            assert [s for part in parts for s in part[number]["sample_seed"].tolist()] == batch["sample_seed"].tolist()
        assert all(s == states[0] for s in states) and state in (None, states[0])
        state = states[0]


def test_another_world_size_goes_on_where_one_stopped(root: Path) -> None:
    one = data(root, global_batch_size=6)
    loader = iter(one.train_dataloader())
    seen = [next(loader)["key"] for _ in range(2)]
    rest = []
    for rank in range(2):
        module = World(root, global_batch_size=6, batches_per_epoch=PER_EPOCH)
        module.rank_and_world_size = (rank, 2)
        module.load_state_dict(one.state_dict())
        rest.append([batch["key"] for batch in module.train_dataloader()])
    whole = [batch["key"] for batch in data(root, global_batch_size=6).train_dataloader()]
    assert seen + [a + b for a, b in zip(*rest, strict=True)] == whole


def test_a_batch_that_ranks_cannot_share_is_refused(root: Path) -> None:
    module = World(root, global_batch_size=10)
    module.rank_and_world_size = (0, 4)
    with pytest.raises(ValueError, match=r"10, which 4 ranks cannot share equally(.|\n)*global_batch_size: 12"):
        module.train_dataloader()


@pytest.mark.parametrize(("option", "value"), [("global_batch_size", 4), ("seed", 1)])
def test_a_resume_with_another_stream_is_refused(root: Path, option: str, value: int) -> None:
    first = data(root)
    next(iter(first.train_dataloader()))
    other = data(root, **{option: value})
    other.load_state_dict(first.state_dict())
    with pytest.raises(StoreError, match=rf"trained with {option} \d, but the configuration says {value}"):
        other.train_dataloader()


def test_a_checkpoint_names_its_revision(root: Path) -> None:
    module = data(root)
    first, second = revisions(root)
    assert module.revision_sha == first and module.next_revision_sha is None
    module.open_revision(second[:10])
    assert (module.revision_sha, module.next_revision_sha) == (first, second)
    newest = EvolvingDataModule(root, global_batch_size=3)
    assert newest.revision_sha == second
    newest.load_state_dict(module.state_dict())
    assert (newest.revision_sha, newest.next_revision_sha) == (first, second)
    newest.train_dataloader()
    assert (newest.revision_sha, newest.next_revision_sha) == (second, None)
    with pytest.raises(StoreError, match=rf"The revisions there are: 000001-{first[:12]}, 000002-{second[:12]}"):
        module.open_revision("0" * 64)
    with pytest.raises(StoreError, match="does not exist"):
        module.load_state_dict({**module.state_dict(), "revision_sha": "0" * 64})
    with pytest.raises(StoreError, match="has format 2"):
        module.load_state_dict({**module.state_dict(), "format": 2})


def test_a_resume_from_another_revision_is_refused(root: Path) -> None:
    first, second = revisions(root)
    begun = EvolvingDataModule(root, global_batch_size=3, revision=first)
    EvolvingDataModule(root, global_batch_size=3, revision=first).load_state_dict(begun.state_dict())
    EvolvingDataModule(root, global_batch_size=3).load_state_dict(begun.state_dict())  # nothing is asked for
    with pytest.raises(ValueError, match=rf"revision is {second}, but the checkpoint goes on with {first[:12]}"):
        EvolvingDataModule(root, global_batch_size=3, revision=second).load_state_dict(begun.state_dict())


def test_a_resume_says_which_edits_it_does_not_read(root: Path) -> None:
    before = revisions(root)[1]
    data = EvolvingDataModule(root, global_batch_size=2, image_size_px=8)
    position = {"format": 1, "revision_sha": before, "global_batch_size": 2, "seed": 0}
    data.load_state_dict(position)  # nothing was edited: no warning, which would be an error here
    with DatasetStore(root) as store:
        edits.add_prompts(store, [Prompt.create("an owl")])
        after = edits.retire(store, [Prompt.create("thing number 3").id]).revision_sha
    with pytest.warns(UserWarning, match=r"in revision 3 \(add\), 4 \(retire\).*no part of it") as told:
        data.load_state_dict(position)
    assert after[:12] in str(told[0].message)
    assert data.revision_sha == before
    assert EvolvingDataModule(root, global_batch_size=2).revision_sha == after, "a new run reads the newest"
    with DatasetStore(root) as store:  # the next round of the resumed run: the newest one no longer has the edits
        publish(store, before, "round2", range(20, 22))
    data.load_state_dict(position)


def test_every_image_is_encoded_by_one_rank_however_late_another_asks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = EvolvingDataModule(root, global_batch_size=2, image_size_px=8)
    encoded = []
    for rank in range(2):  # the second asks when the first has written all of its own
        monkeypatch.setattr(module, "_rank_and_world_size", lambda rank=rank: (rank, 2))
        latents = LatentFiles(tmp_path / "latents", 2**20, "codec")
        encoded.append([key for key, _ in module.images_without_latents(latents)])
        latents.write({key: (np.zeros((1, 2, 2), np.float32), None) for key in encoded[-1]})
    assert [len(keys) for keys in encoded] == [9, 8] and not set(encoded[0]) & set(encoded[1])


def test_an_empty_live_set_is_an_error_until_something_is_bought(tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("thing number 1\nthing number 2\n")
    module = EvolvingDataModule(tmp_path / "data", seeds=tmp_path / "seeds.txt", global_batch_size=2, image_size_px=8)
    module.prepare_data()
    with pytest.raises(StoreError, match="has no image to train"):
        module.train_dataloader()
    latents = LatentFiles(tmp_path / "latents", 2**20, "codec")
    assert list(module.images_without_latents(latents)) == []  # a rehearsal asks before anything is bought
    before_buying = module.state_dict()
    with DatasetStore(tmp_path / "data") as store:
        module.open_revision(publish(store, store.current(), "round0", range(1, 3)))
    assert next(iter(module.train_dataloader()))["image"].shape == (2, 3, 8, 8)
    assert len(list(module.images_without_latents(latents))) == 2
    resumed = EvolvingDataModule(tmp_path / "data", global_batch_size=2, image_size_px=8)
    resumed.load_state_dict(before_buying)  # a checkpoint from before the first round
    resumed.open_revision(module.revision_sha)
    assert next(iter(resumed.train_dataloader()))["key"]


def test_seeds_are_imported_once_without_held_out_prompts(tmp_path: Path) -> None:
    class Source:
        def prompts(self) -> list[Prompt]:
            return [Prompt.create(text) for text in ("a dog", "A dog.", "a cat", "a bird")]

    (tmp_path / "held_out.txt").write_text("the bird\n")
    module = EvolvingDataModule(tmp_path / "data", seeds=Source(), held_out=str(tmp_path / "held_out.txt"))
    module.prepare_data()
    module.prepare_data()
    with DatasetStore(tmp_path / "data") as store:
        state = store.state(store.current() or "")
        assert store.number(state.revision_sha) == 1
        assert [entry.prompt.text for entry in state.in_state("candidate")] == ["a dog", "a cat"]
        assert store.ledger.prompts.held_out() == {Prompt.create("a bird").id}


def test_a_missing_root_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no root"):
        EvolvingDataModule("")
    with pytest.raises(StoreError, match="there are no seeds to make it from"):
        EvolvingDataModule(tmp_path / "missing").prepare_data()
    with pytest.raises(StoreError, match="has no revision"):
        EvolvingDataModule(tmp_path / "missing").train_dataloader()
    with pytest.raises(ValueError, match="batches_per_epoch is 0"):
        EvolvingDataModule(tmp_path, batches_per_epoch=0)


def quiet_trainer(**options: object) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        **options,
    )


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_evaluation_and_prediction_ask_for_images(root: Path, tmp_path: Path, precision: str) -> None:
    (tmp_path / "p.txt").write_text("\n".join(f"thing {n}" for n in range(5)))
    prompts = [Prompt.create(f"thing {n}") for n in range(5)]
    module = Toy()
    source = data(root, held_out=tmp_path / "p.txt", predict_prompts=tmp_path / "p.txt", generation_chunk_size=2)
    with DatasetStore(root):  # evaluation writes nothing, so it does not wait for a writer
        quiet_trainer(precision=precision).validate(module, datamodule=source, verbose=False)
        quiet_trainer(precision=precision).test(module, datamodule=source, verbose=False)
        predicted = quiet_trainer(precision=precision).predict(module, datamodule=source)
    ids = [prompt.id for prompt in prompts]
    assert module.requests == [ids[:2], ids[2:4], [ids[4]] * 2] * 2
    assert predicted == [["thing 0", "thing 1"], ["thing 2", "thing 3"], ["thing 4", "thing 4"]]
    assert source.held_out_prompts() == prompts


def test_chunks_are_cut_before_ranks_are_assigned(root: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join(f"thing {n}" for n in range(7)))
    whole = [list(chunk) for chunk in data(root, held_out=tmp_path / "p.txt", generation_chunk_size=3).val_dataloader()]
    dealt = []
    for rank in range(2):
        module = World(root, held_out=tmp_path / "p.txt", generation_chunk_size=3, image_size_px=8)
        module.rank_and_world_size = (rank, 2)
        dealt.append([list(chunk) for chunk in module.val_dataloader()])
    assert len(whole) == 3 and [len(chunks) for chunks in dealt] == [2, 2]
    assert [dealt[0][0], dealt[1][0], dealt[0][1]] == whole and dealt[1][1] in whole
    assert len({request.seed for chunk in whole for request in chunk}) == 7


@pytest.mark.parametrize("limit", [2, 0.5])
def test_a_limited_epoch_resumes_exactly(root: Path, tmp_path: Path, limit: float) -> None:
    second, path = revisions(root)[1], tmp_path / "run.ckpt"
    whole, before, after = Toy(), Toy(), Toy()
    options = {"limit_train_batches": limit, "max_steps": 8}
    quiet_trainer(**options, callbacks=[Evolve(second)]).fit(whole, datamodule=data(root))
    with pytest.raises(Stop):
        quiet_trainer(**options, callbacks=[Evolve(second, "epoch1", path)]).fit(before, datamodule=data(root))
    quiet_trainer(**options, callbacks=[Evolve(second)]).fit(after, datamodule=data(root), ckpt_path=path)
    assert len(whole.seen) == 8 and before.seen + after.seen == whole.seen


def test_a_config_makes_a_datamodule(root: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.LightningDataModule, "data")
    options = {"root": str(root), "global_batch_size": 2}
    path = "evolvedirector.datamodules.EvolvingDataModule"
    config = parser.parse_object({"data": {"class_path": path, "init_args": options}})
    assert parser.instantiate_classes(config).data.global_batch_size == 2
    assert "batches_per_epoch: 100" in parser.dump(config)


def test_a_placeholder_has_the_form_of_a_real_batch(root: Path, tmp_path: Path) -> None:
    """Shaded pictures under the revision's prompts while nothing is bought, then the revision's own first batch."""
    with DatasetStore(tmp_path / "new", create=True) as store:
        import_prompts(store, [Prompt.create(f"thing {n}", skill="things") for n in range(2)], [])
    new = EvolvingDataModule(tmp_path / "new", None, None, 3, 2, 16, roles=("image", "subject_mask"))
    batch = new.placeholder_batch()
    assert batch is not None and batch["image"].shape == (3, 3, 16, 16) and batch["image"].dtype == torch.uint8
    assert batch["subject_mask"].shape == (3, 1, 16, 16)
    assert batch["prompt"] == ["thing 0", "thing 1", "thing 0"] and batch["sample_seed"].dtype == torch.int64
    real = EvolvingDataModule(root, None, None, 4, 2, 8)
    shown, first = real.placeholder_batch(), next(iter(real.train_dataloader()))
    assert shown is not None and shown.keys() == first.keys() and batch.keys() == {*shown, "subject_mask"}
    assert shown["key"] == first["key"] and torch.equal(shown["image"], first["image"])
    assert EvolvingDataModule(tmp_path / "new", None, None, 3, 2, 16, roles=("latent",)).placeholder_batch() is None
