"""Embeddings as batches: padded under a mask, in the same exact order, refused where they do not belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from evolvedirector.callbacks import EvolutionCallback, RunCheckpoint
from evolvedirector.commands import embed
from evolvedirector.datamodules import EmbeddingDataModule
from evolvedirector.errors import UserError
from evolvedirector.evolution.embedding import EMBEDDING_ROLES
from evolvedirector.models.clip_embedder import ClipEmbedder
from evolvedirector.models.embedder import IMAGE_EMBEDDING, TEXT_EMBEDDING, TEXT_MASK, TEXT_STATES
from evolvedirector.planning.roles import DescribesEmbeddings
from evolvedirector.policies.evolve_director import EvolveDirectorPolicy
from evolvedirector.records import FileRef, ImageRequest, Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, RevisionFiles
from tests.commands.test_embed import fill, part
from tests.embedding_toys import ToyEmbedder
from tests.store.sample_files import npy, picture
from tests.toys import ToyJudge, ToyPrompts, ToyTeacher, ToyWriter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*litmodels.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("embedded") / "data"
    fill(root, 20)
    embed.main([str(root), "--embedder", part(root.parent)])
    return root


def batches_of(root: Path, **options: Any) -> list[dict[str, Any]]:
    return list(EmbeddingDataModule(root, global_batch_size=6, batches_per_epoch=5, **options).train_dataloader())


def test_a_batch_holds_what_the_embedder_said(root: Path) -> None:
    toy = ToyEmbedder()
    for batch in batches_of(root):
        states, mask = batch[TEXT_STATES], batch[TEXT_MASK]
        assert states.dtype == torch.float32 and mask.dtype == torch.bool and states.shape[:2] == mask.shape
        assert mask.sum(1).max() == mask.shape[1] and not states[~mask].any()
        found = toy.embed_texts(batch["prompt"])
        length = states.shape[1]
        assert torch.equal(mask, found.states.mask[:, :length])
        assert torch.equal(states, found.states.values[:, :length].half().float())
        assert torch.equal(batch[TEXT_EMBEDDING], found.pooled)
        assert batch[IMAGE_EMBEDDING].shape == (6, 4) and batch["sample_seed"].dtype == torch.int64


def test_token_states_have_a_stated_length(root: Path) -> None:
    assert {batch[TEXT_STATES].shape[1] for batch in batches_of(root, text_tokens=9)} == {9}
    with pytest.raises(UserError, match="6 tokens, but text_tokens is 5"):
        batches_of(root, text_tokens=5)


def test_workers_read_the_same(root: Path) -> None:
    here, there = batches_of(root), batches_of(root, num_workers=1)
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys() and torch.equal(one[TEXT_STATES], other[TEXT_STATES])
        assert one["key"] == other["key"]


def test_two_ranks_read_what_one_reads(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = batches_of(root), []
    for rank in range(2):
        monkeypatch.setattr(EmbeddingDataModule, "_rank_and_world_size", lambda data, rank=rank: (rank, 2))
        parts.append(batches_of(root))
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch["key"] == first["key"] + second["key"]
        assert torch.equal(batch[IMAGE_EMBEDDING], torch.cat([first[IMAGE_EMBEDDING], second[IMAGE_EMBEDDING]]))
        assert torch.equal(batch["sample_seed"], torch.cat([first["sample_seed"], second["sample_seed"]]))


class Prior(pl.LightningModule):
    """A linear prior; notes what it was trained and validated on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.seen: list[tuple[str, ...]] = []
        self.validated: list[Any] = []

    def training_step(self, batch: Mapping[str, Any], index: int) -> torch.Tensor:
        self.seen.append(tuple(batch["key"]))
        pooled = (batch[TEXT_STATES] * batch[TEXT_MASK][..., None]).sum(1)
        return (self.layer(pooled) - batch[IMAGE_EMBEDDING]).square().mean()

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Stop(Exception):
    """Ends a run in the middle."""


class SaveAndStop(pl.Callback):
    def __init__(self, path: Path, after: int) -> None:
        self.path, self.after = path, after

    def on_train_batch_end(self, trainer: pl.Trainer, module: Prior, *_: object) -> None:
        if len(module.seen) == self.after:
            trainer.save_checkpoint(self.path)
            raise Stop


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings = {"accelerator": "cpu", "max_epochs": 3, "reload_dataloaders_every_n_epochs": 1, **quiet, **options}
    return pl.Trainer(enable_model_summary=False, num_sanity_val_steps=0, callbacks=list(callbacks), **settings)


def data(root: Path, **options: Any) -> EmbeddingDataModule:
    return EmbeddingDataModule(root, global_batch_size=4, batches_per_epoch=3, **options)


def test_a_resumed_run_trains_on_what_it_would_have(root: Path, tmp_path: Path) -> None:
    whole, first, second = Prior(), Prior(), Prior()
    settings: dict[str, Any] = {"validation_share": 0.3, "seed": 5}
    trainer().fit(whole, datamodule=data(root, **settings))
    with pytest.raises(Stop):
        trainer(SaveAndStop(tmp_path / "x.ckpt", 4)).fit(first, datamodule=data(root, **settings))
    trainer().fit(second, datamodule=data(root, **settings), ckpt_path=tmp_path / "x.ckpt", weights_only=False)
    assert first.seen + second.seen == whole.seen and len(whole.seen) == 9
    with pytest.raises(UserError, match=r"validation_share is 0.0, but the checkpoint was trained with 0.3"):
        trainer().fit(Prior(), datamodule=data(root, seed=5), ckpt_path=tmp_path / "x.ckpt", weights_only=False)


def test_what_validates_is_never_trained_on_and_the_same_each_time(root: Path, tmp_path: Path) -> None:
    module = Prior()
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("a held-out prompt\n")
    run = data(root, validation_share=0.3, held_out=held_out)
    trainer(max_epochs=4, limit_val_batches=1.0).fit(module, datamodule=run)
    trained = {key for keys in module.seen for key in keys}
    requests = [batch for batch in module.validated if isinstance(batch, list)]
    pairs = [batch for batch in module.validated if not isinstance(batch, list)]
    validated = {key for batch in pairs for key in batch["key"]}
    assert len(requests) == 4 and requests[0][0].prompt == "a held-out prompt"
    assert validated and not trained & validated and len(trained | validated) == 21
    per_epoch = len(pairs) // 4
    assert [batch["key"] for batch in pairs[:per_epoch]] == [batch["key"] for batch in pairs[-per_epoch:]]
    assert torch.equal(pairs[0]["sample_seed"], pairs[-per_epoch]["sample_seed"])


def test_a_share_that_keeps_all_to_validate_is_said(root: Path) -> None:
    run = data(root, validation_share=0.9999)
    for ask in (run.train_dataloader, run.embedding_figures):
        with pytest.raises(UserError, match=r"validation_share is 0.9999, which keeps all 21 samples"):
            ask()


def test_it_tells_its_figures(root: Path) -> None:
    module = EmbeddingDataModule(root, embedder=ToyEmbedder())
    assert isinstance(module, DescribesEmbeddings)
    figures = module.embedding_figures()
    assert figures is not None
    toy = ToyEmbedder()
    norms = [
        float(batch[IMAGE_EMBEDDING][row].norm())
        for batch in EmbeddingDataModule(root, global_batch_size=21, batches_per_epoch=1).train_dataloader()
        for row in range(21)
    ]
    assert figures.pairs == 21 and figures.embedder_fingerprint == toy.fingerprint
    assert figures.mean_norm == pytest.approx(np.mean(norms), rel=1e-5)
    assert (figures.embedding_dim, figures.text_width) == (4, 4)
    assert module.parts() == {"embedder": module.embedder}
    assert module.plan_summary()["embeddings"].startswith("21 pairs to train on, 4 values, 4 per token, by toy")
    assert EmbeddingDataModule(root.parent / "nowhere").embedding_figures() is None


def add(root: Path, text: str, files: dict[str, FileRef] | None = None) -> None:
    """Publish one more sample, with files of its own."""
    with DatasetStore(root) as store:
        kept = dict(zip(files or {}, store.blobs.put_files(list((files or {}).values())), strict=True))
        sample = Sample.create(Prompt.create(text), store.blobs.put(picture(77)), "toy", kept)
        store.publish(store.current(), text, RevisionChange(samples=(sample,)))


def own(width: int = 4, value: float = 1.0) -> dict[str, FileRef]:
    """Return the embeddings of a sample as an import brings them."""
    arrays = {TEXT_STATES: np.ones((3, width)), TEXT_EMBEDDING: np.ones(width), IMAGE_EMBEDDING: np.full(width, value)}
    return {role: FileRef.of(npy(array), "application/x-npy") for role, array in arrays.items()}


def test_what_cannot_be_trained_on_is_one_sentence(tmp_path: Path) -> None:
    root = tmp_path / "data"
    fill(root, 4)
    with pytest.raises(UserError, match=r"no embeddings for 5 of the 5 .* Run `evolvedirector embed .*data --model"):
        batches_of(root)
    with pytest.raises(UserError, match="no embeddings"):
        EmbeddingDataModule(root).embedding_figures()
    embed.main([str(root), "--embedder", part(tmp_path)])
    with pytest.raises(UserError, match=r"of toy embedder toy, but the embedder is toy embedder other"):
        batches_of(root, embedder=ToyEmbedder("other"))
    with pytest.raises(UserError, match=r"have 4 values per token and 4 per image, the embedder gives 5 and 5"):
        batches_of(root, embedder=ToyEmbedder(width=5))
    add(root, "without")
    with pytest.raises(UserError, match="no 'text_states' for 1 of the 6 samples"):
        batches_of(root)
    with DatasetStore(root) as store:
        store.publish(store.current(), "away", RevisionChange(states={Prompt.create("without").id: "retired"}))
    assert batches_of(root)
    add(root, "of another", own())
    with pytest.raises(UserError, match=r"embeddings of 2 embedders: 1 of nobody knows whom, 5 of toy embedder toy"):
        batches_of(root)


class Knowing(Prior):
    embedder = ClipEmbedder("some/clip", projection_dim=5)


def test_the_command_that_is_named_makes_embeddings_of_the_space_that_is_learned(tmp_path: Path) -> None:
    root = tmp_path / "data"
    fill(root, 4)
    bigg = ClipEmbedder("laion/bigG", image_model="some/prior", projection_dim=1280)
    for embedder, said in (
        (bigg, "data --model laion/bigG --image-model some/prior --projection-dim 1280`."),
        (ToyEmbedder(), "data --embedder FILE`, a YAML with class_path and init_args of ToyEmbedder."),
        (
            None,
            "data --model NAME`, with the CLIP of your decoder: openai/clip-vit-large-patch14 for Karlo (768 values)",
        ),
    ):
        with pytest.raises(UserError) as error:
            batches_of(root, embedder=embedder)
        assert said in str(error.value)
    with pytest.raises(UserError, match="data --model some/clip --projection-dim 5`"):
        trainer().fit(Knowing(), datamodule=data(root))


def test_numbers_that_are_not_finite_and_widths_that_differ_are_found(tmp_path: Path) -> None:
    root = tmp_path / "data"
    fill(root, 1, own())
    assert EmbeddingDataModule(root).embedding_figures().embedder_fingerprint is None
    add(root, "broken", own(value=np.nan))
    with pytest.raises(UserError, match=r"image_embedding of the sample .* not finite"):
        batches_of(root)
    root = tmp_path / "other"
    fill(root, 1, own())
    add(root, "wider", own(width=5))
    with pytest.raises(UserError, match=r"shapes text_states \(3, [45]\)"):
        batches_of(root)


def test_further_arrays_come_along(tmp_path: Path) -> None:
    edge = {"edge_embedding": FileRef.of(npy([1, 2, 3, 4]), "application/x-npy")}
    fill(tmp_path / "data", 3, own() | edge)
    batch = batches_of(tmp_path / "data", further_roles=["edge_embedding"])[0]
    assert batch["edge_embedding"].tolist() == [[1, 2, 3, 4]] * 6
    assert set(EMBEDDING_ROLES) < batch.keys()
    assert RevisionFiles(tmp_path / "data").current()


class DrawingPrior(Prior):
    """Draws grey, so that teachers are better at everything."""

    image_size_px = 8
    generation_chunk_size = 2

    def generate(self, requests: Sequence[ImageRequest]) -> list[torch.Tensor]:
        return [torch.full((3, 8, 8), 128, dtype=torch.uint8) for _ in requests]


def test_evolution_drives_a_prior_on_what_it_just_bought(tmp_path: Path) -> None:
    toy, module = ToyEmbedder(), DrawingPrior()
    evolution = EvolutionCallback(
        teachers={"toy": ToyTeacher()},
        judge=ToyJudge(),
        writer=ToyWriter(),
        policy=EvolveDirectorPolicy(expansions=1),
        embedder=toy,
    )
    run = data(tmp_path / "data", seeds=ToyPrompts(6), embedder=ToyEmbedder())
    options = {"default_root_dir": tmp_path, "limit_val_batches": 0, "enable_checkpointing": True}
    trainer(evolution, RunCheckpoint(), **options).fit(module, datamodule=run)
    assert run.embedding_figures().pairs > 6 and len(module.seen) == 9
    assert run.embedding_figures().embedder_fingerprint == toy.fingerprint
    assert len(toy.texts) == len(set(toy.texts)) >= run.embedding_figures().pairs
    assert evolution.parts()["embedder"] is toy
