"""`evolvedirector embed` gives every sample its embeddings, each text and image once, wherever it was cut off."""

from __future__ import annotations

import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import yaml

from evolvedirector.cli import main
from evolvedirector.commands import embed
from evolvedirector.datamodules import EmbeddingDataModule
from evolvedirector.errors import UserError
from evolvedirector.evolution.embedding import EMBEDDING_ROLES
from evolvedirector.models.embedder import IMAGE_EMBEDDING, TEXT_EMBEDDING, TEXT_STATES
from evolvedirector.records import FileRef, Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, EvolvingDataset, RevisionFiles, RevisionReader, StoreError
from evolvedirector.store.embeddings import FOLDER
from tests.embedding_toys import ToyEmbedder
from tests.models.tiny_split_clips import whole
from tests.store.sample_files import npy, picture


def fill(root: Path, number_of_prompts: int = 12, files: dict[str, FileRef] | None = None) -> str:
    """Publish prompts of 2 to 8 words; every second image is one and the same, and one prompt has two images."""
    with DatasetStore(root, create=True) as store:
        kept = dict(zip(files or {}, store.blobs.put_files(list((files or {}).values())), strict=True))
        samples = []
        for number in range(number_of_prompts):
            image = store.blobs.put(picture(number if number % 2 else 0))
            prompt = Prompt.create(" ".join(["thing", str(number), *["very"] * (number % 7)]))
            samples.append(Sample.create(prompt, image, "toy", kept))
        samples.append(Sample.create(samples[0].prompt, store.blobs.put(picture(99)), "toy", kept, variant="second"))
        return store.publish(None, "import", RevisionChange(samples=tuple(samples)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ToyEmbedder]]:
    """Collect the embedders that the command builds."""
    built: list[ToyEmbedder] = []
    real = embed.build_part

    def build(*given: object) -> ToyEmbedder:
        built.append(real(*given))  # type: ignore[arg-type]
        return built[-1]

    monkeypatch.setattr(embed, "build_part", build)
    yield built


def part(folder: Path, **settings: object) -> str:
    path = folder / f"{'-'.join(map(str, settings.values())) or 'toy'}.yaml"
    path.write_text(yaml.safe_dump({"class_path": "tests.embedding_toys.ToyEmbedder", "init_args": settings}))
    return str(path)


def read(root: Path) -> dict[str, dict[str, np.ndarray]]:
    sha = RevisionFiles(root).current()
    assert sha is not None
    dataset = EvolvingDataset(root, sha, roles=EMBEDDING_ROLES)
    return {sample["key"]: sample for sample in map(dataset.__getitem__, range(len(dataset)))}


def test_each_text_and_image_is_embedded_once(
    root: Path, toys: list[ToyEmbedder], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(root), "--embedder", part(root.parent)]) == 0
    (toy,) = toys
    assert len(toy.texts) == len(set(toy.texts)) == 12 and len(toy.images) == 8
    printed = capsys.readouterr().out
    assert "Embedded 13 samples: 12 different texts (12 now" in printed and "8 different images (8 now" in printed
    assert "4 texts were longer than 6 tokens" in printed  # of 6 to 8 words, behind their mark of beginning
    found = read(root)
    for sample in found.values():
        words = ["<", *sample["prompt"].split()][:6]
        states = np.stack([toy.value(word).numpy() for word in words])
        assert sample[TEXT_STATES].dtype == np.float16 and sample[IMAGE_EMBEDDING].dtype == np.float32
        np.testing.assert_array_equal(sample[TEXT_STATES], states.astype(np.float16))
        np.testing.assert_allclose(sample[TEXT_EMBEDDING], states.sum(0), rtol=1e-6)
    second = next(sample for key, sample in found.items() if "second" in key or sample[IMAGE_EMBEDDING][0] * 255 > 98)
    assert second[IMAGE_EMBEDDING][0] == pytest.approx(99 / 255)
    assert not (root / FOLDER).exists()


def test_the_companion_says_who_made_it_and_a_second_command_has_nothing_to_do(
    root: Path, toys: list[ToyEmbedder], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["embed", str(root), "--embedder", part(root.parent)]) == 0
    assert not toys[1].texts and "has embeddings of toy embedder toy" in capsys.readouterr().out
    reader = RevisionReader(root, str(RevisionFiles(root).current()), EMBEDDING_ROLES)
    assert reader.number == 2 and reader.makers(IMAGE_EMBEDDING) == {"toy embedder toy": 13}


def test_only_what_is_new_is_embedded_later(root: Path, toys: list[ToyEmbedder]) -> None:
    main(["embed", str(root), "--embedder", part(root.parent)])
    with DatasetStore(root) as store:
        sample = Sample.create(Prompt.create("something new"), store.blobs.put(picture(50)), "toy")
        store.publish(store.current(), "more", RevisionChange(samples=(sample,)))
    main(["embed", str(root), "--embedder", part(root.parent)])
    assert toys[1].texts == ["something new"] and len(toys[1].images) == 1
    assert len(read(root)) == 14


def test_embeddings_of_another_embedder_are_replaced_only_when_told(root: Path, toys: list[ToyEmbedder]) -> None:
    main(["embed", str(root), "--embedder", part(root.parent)])
    before = RevisionFiles(root).current()
    with pytest.raises(UserError, match=r"13 of 13 samples .* toy embedder toy, not of toy embedder b.* --replace"):
        embed.main([str(root), "--embedder", part(root.parent, name="b")])
    assert RevisionFiles(root).current() == before and not toys[1].texts
    assert embed.main([str(root), "--embedder", part(root.parent, name="b"), "--replace"]) == 0
    reader = RevisionReader(root, str(RevisionFiles(root).current()), EMBEDDING_ROLES)
    assert reader.makers(TEXT_STATES) == {"toy embedder b": 13}
    older = RevisionReader(root, str(before), EMBEDDING_ROLES)
    assert older.makers(TEXT_STATES) == {"toy embedder toy": 13}  # a run that stands there reads what it always did


def test_what_cannot_be_embedded_is_one_sentence(root: Path, tmp_path: Path) -> None:
    toy = part(tmp_path)
    with pytest.raises(UserError, match="--batch-size stands beside --embedder"):
        embed.main([str(root), "--embedder", toy, "--batch-size", "4"])
    with pytest.raises(UserError, match=r"text 'thing 3 .*' has numbers that are not finite"):
        embed.main([str(root), "--embedder", part(tmp_path, breaks="3")])
    with pytest.raises(StoreError, match="is no dataset root"):
        embed.main([str(tmp_path / "nowhere"), "--embedder", toy])
    with pytest.raises(UserError, match="does not exist"):
        embed.main([str(root), "--model", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit):
        embed.main([str(root)])
    given = FileRef.of(npy([1, 2, 3]), "application/x-npy")
    fill(tmp_path / "given", files={IMAGE_EMBEDDING: given})
    with pytest.raises(UserError, match="came with its own 'image_embedding', but not with all of"):
        embed.main([str(tmp_path / "given"), "--embedder", toy])


def test_embeddings_of_nobody_knows_whom_are_not_mixed_with_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, own = (
        tmp_path / "own",
        {role: FileRef.of(npy(np.ones((2, 4))), "application/x-npy") for role in EMBEDDING_ROLES},
    )
    sha = fill(root, 4, own)
    assert embed.main([str(root), "--embedder", part(tmp_path), "--replace"]) == 0
    assert "came with embeddings of its own" in capsys.readouterr().out and RevisionFiles(root).current() == sha
    with DatasetStore(root) as store:
        sample = Sample.create(Prompt.create("another"), store.blobs.put(picture(7)), "toy")
        sha = store.publish(sha, "more", RevisionChange(samples=(sample,)))
    for options in ([], ["--replace"]):
        with pytest.raises(UserError, match=r"5 of 6 samples .* came with embeddings of their own"):
            embed.main([str(root), "--embedder", part(tmp_path), *options])
    assert RevisionFiles(root).current() == sha


def test_a_clip_fills_a_root_that_the_datamodule_reads(root: Path, tmp_path: Path) -> None:
    clip = whole(tmp_path / "clip")
    assert main(["embed", str(root), "--model", str(clip), "--batch-size", "4", "--device", "cpu"]) == 0
    figures = EmbeddingDataModule(root, global_batch_size=4).embedding_figures()
    assert (figures.pairs, figures.embedding_dim, figures.text_width) == (13, 8, 32)
    assert str(figures.embedder_fingerprint).startswith("clip-embedder-1/clip/")


def uninterrupted(folder: Path) -> str | None:
    fill(folder / "whole")
    embed.main([str(folder / "whole"), "--embedder", part(folder)])
    return RevisionFiles(folder / "whole").current()


def cut_off(place: str, after: int, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> bool:
    """Run a command whose writes of one kind fail after so many; return whether one failed."""
    owner, _, name = place.rpartition(".")
    real, calls = getattr(pkgutil.resolve_name(owner), name), count()

    def write(*given: object, **named: object) -> object:
        if next(calls) >= after:
            raise InterruptedError
        return real(*given, **named)

    with monkeypatch.context() as broken:
        broken.setattr(place, write)
        try:
            embed.main(command)
        except InterruptedError:
            return True
    return False


@pytest.mark.parametrize(
    ("place", "failures"),
    [
        ("evolvedirector.store.keyed_files.KeyedFiles.write", 5),
        ("evolvedirector.store.dataset.write_shard", 1),
        ("evolvedirector.store.revision.RevisionFiles.write", 1),
        ("evolvedirector.store.revision.RevisionFiles.set_current", 1),
    ],
)
def test_cut_off_at_any_write_it_goes_on(
    root: Path, toys: list[ToyEmbedder], monkeypatch: pytest.MonkeyPatch, place: str, failures: int
) -> None:
    """The first write of a kind fails, then the second of each further try, until one has none left to fail."""
    whole = uninterrupted(root.parent)
    monkeypatch.setattr(embed, "_UNIT", 4)
    command = [str(root), "--embedder", part(root.parent)]
    failed = next(n for n in range(20) if not cut_off(place, min(n, 1), monkeypatch, command))
    asked = [text for toy in toys[1:] for text in toy.texts]
    assert failed >= failures and RevisionFiles(root).current() == whole
    assert set(asked) == set(toys[0].texts)
    assert len(asked) <= 12 + (4 * failed if "keyed" in place else 0)  # the open group is lost, and nothing else
    assert not list(root.rglob("*.tmp*")) and not list(root.rglob("*.writing")) and not (root / FOLDER).exists()


@pytest.mark.slow
def test_killed_among_texts_and_among_images_it_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = uninterrupted(root.parent)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    program = (
        "import sys; from evolvedirector.commands import embed; embed._UNIT = 3; sys.exit(embed.main(sys.argv[1:]))"
    )
    codes, printed = [], ""
    for dies_at in (3, 4, None):  # 4 units of texts, then 3 of images: what was done is not asked again
        settings = {} if dies_at is None else {"dies_at": dies_at}
        command = [sys.executable, "-c", program, str(root), "--embedder", part(root.parent, **settings)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        codes.append(ended.returncode)
        printed = ended.stdout
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert "12 different texts (0 now" in printed and "8 different images (5 now" in printed
    assert RevisionFiles(root).current() == whole
