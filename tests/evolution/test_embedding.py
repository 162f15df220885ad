"""What a round publishes has its embeddings, computed once; without an embedder nothing is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evolvedirector.datamodules import EmbeddingDataModule
from evolvedirector.errors import UserError
from evolvedirector.evolution.embedding import EMBEDDING_ROLES
from evolvedirector.evolution.opening import run_seeding
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_id import RoundSettings, round_id_of
from evolvedirector.evolution.round_parts import Round, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.models.embedder import IMAGE_EMBEDDING
from evolvedirector.models.embedding_part import EmbeddingPart
from evolvedirector.records import FileRef, Prompt, RevisionChange, Sample
from evolvedirector.store import RevisionReader
from evolvedirector.store.embeddings import FOLDER
from evolvedirector.store.revision import RevisionFiles
from tests import toys
from tests.embedding_toys import ToyEmbedder
from tests.evolution.test_round import World
from tests.store.sample_files import npy, picture


@pytest.fixture
def world(tmp_path: Path):
    world = World(tmp_path)
    yield world
    world.store.close()


def with_embedder(world: World, embedder: ToyEmbedder, round_id: str = "r1") -> Round:
    part = EmbeddingPart(embedder)
    round = world.context(round_id, embedder=part)
    parts = round.parts
    tenants = tenants_of(parts.student, parts.teachers, parts.judge, parts.writer, None, part)
    object.__setattr__(parts, "executor", LocalExecutor(tenants, unit=8))
    return round


def test_seeds_and_bought_samples_come_with_their_embeddings(world: World) -> None:
    toy = ToyEmbedder()
    world.sha = run_seeding(with_embedder(world, toy, "seeding"))
    seeded = list(toy.texts)
    assert len(seeded) == 8
    child = run_round(with_embedder(world, toy))
    live = world.store.state(child).in_state("live")
    assert {entry.prompt.text for entry in live} <= set(toy.texts) and len(toy.texts) == len(set(toy.texts)) > 8
    reader = RevisionReader(world.store.root, child, (IMAGE_EMBEDDING,))
    assert reader.makers(IMAGE_EMBEDDING) == {toy.fingerprint: len(live)} and reader.number == 3
    data = EmbeddingDataModule(world.store.root, global_batch_size=4, embedder=ToyEmbedder())
    for batch in list(data.train_dataloader())[:3]:
        tones = [toys.tone_of(prompt) / 255 for prompt in batch["prompt"]]
        assert batch[IMAGE_EMBEDDING][:, 0].tolist() == pytest.approx(tones)
    assert not (world.store.root / FOLDER).exists()


def test_a_round_killed_before_it_published_embeds_nothing_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sha = run_seeding(with_embedder(world, ToyEmbedder(), "seeding"))
    first, second = ToyEmbedder(), ToyEmbedder()

    def killed(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as broken:
        broken.setattr(RevisionFiles, "write", killed)
        with pytest.raises(InterruptedError):
            run_round(with_embedder(world, first))
    asked = len(world.asked())
    child = run_round(with_embedder(world, second))
    assert first.texts and not second.texts and not second.images and len(world.asked()) == asked
    assert run_round(with_embedder(world, second)) == child


def test_without_an_embedder_the_revision_is_the_one_it_always_was(world: World, tmp_path: Path) -> None:
    world.seed()
    plain = run_round(world.context())
    body = RevisionFiles(world.store.root).body(plain)
    assert "companions" not in body and body["format"] < 4
    settings = RoundSettings({}, world.judge, world.writer, world.policy, world.budget)
    assert not any("embedder" in decider for decider in settings.deciders(""))
    other = RoundSettings({}, world.judge, world.writer, world.policy, world.budget, embedder=ToyEmbedder())
    assert round_id_of(settings, "", [], 1, plain) != round_id_of(other, "", [], 1, plain)


def test_another_embedder_is_refused_before_anything_is_bought(world: World) -> None:
    world.sha = run_seeding(with_embedder(world, ToyEmbedder(), "seeding"))
    asked = len(world.asked())
    with pytest.raises(UserError, match=r"8 of 8 samples .* of another embedder, toy embedder toy, not of"):
        run_round(with_embedder(world, ToyEmbedder("other")))
    assert len(world.asked()) == asked


def test_a_round_adds_nothing_to_embeddings_of_nobody_knows_whom(world: World) -> None:
    store = world.store
    own = {role: FileRef.of(npy(np.ones((2, 4))), "application/x-npy") for role in EMBEDDING_ROLES}
    kept = dict(zip(own, store.blobs.put_files(list(own.values())), strict=True))
    sample = Sample.create(Prompt.create("a thing"), store.blobs.put(picture(1)), "toy", kept)
    world.sha = store.publish(world.sha, "own", RevisionChange(samples=(sample,)))
    with pytest.raises(UserError, match=r"1 of 1 samples .* came with embeddings of their own"):
        run_round(with_embedder(world, ToyEmbedder()))
    assert not world.asked()
