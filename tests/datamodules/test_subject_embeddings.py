"""Subjects and edges of samples, from their files through `embed` into batches of unequal numbers of subjects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from evolvedirector.commands import embed
from evolvedirector.datamodules import EmbeddingDataModule
from evolvedirector.errors import UserError
from evolvedirector.models.embedder import EDGE_EMBEDDING, HAS_EDGE, SUBJECT_EMBEDDINGS, SUBJECT_TOKENS, TEXT_STATES
from evolvedirector.records import FileRef, Prompt, RevisionChange, Sample
from evolvedirector.store import DatasetStore, RevisionFiles
from evolvedirector.store.files import checked_file
from tests.commands.test_embed import part
from tests.embedding_toys import ToyEmbedder
from tests.store.sample_files import npy, picture


def names(*given: Any) -> FileRef:
    return FileRef.of(json.dumps(given).encode(), "application/json")


def shown(number: int) -> FileRef:
    return checked_file(picture(number), "png")


FILES: dict[str, dict[str, FileRef]] = {
    "a cat and a dog": {"subjects": names("cat", "dog"), "subject": shown(50), "subject_2": shown(51)},
    "cat or cat": {"subjects": names({"name": "cat", "begin": 7}), "subject": shown(50), "edge": shown(52)},
    "a hat": {},
    "two hats": {"edge": shown(53)},
}


def fill(root: Path, files: dict[str, dict[str, FileRef]]) -> Path:
    with DatasetStore(root, create=not root.exists()) as store:
        samples = []
        for number, (text, own) in enumerate(files.items()):
            kept = dict(zip(own, store.blobs.put_files(list(own.values())), strict=True))
            image = store.blobs.put(picture(number))
            samples.append(Sample.create(Prompt.create(text), image, "given", kept))
        store.publish(store.current(), "-".join(files)[:40], RevisionChange(samples=tuple(samples)))
    return root


def whole_batch(root: Path, **options: Any) -> dict[str, Any]:
    data = EmbeddingDataModule(root, global_batch_size=4, batches_per_epoch=1, **options)
    (batch,) = list(data.train_dataloader())
    return batch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = fill(tmp_path / "data", FILES)
    assert embed.main([str(root), "--embedder", part(tmp_path)]) == 0
    return root


def test_samples_with_two_one_and_no_subjects_share_a_batch(root: Path) -> None:
    batch, toy = whole_batch(root, subjects=True, edges=True, num_workers=1), ToyEmbedder()
    tokens, embeddings = batch[SUBJECT_TOKENS], batch[SUBJECT_EMBEDDINGS]
    assert tokens.dtype == torch.bool and tokens.shape == (4, 2, batch[TEXT_STATES].shape[1])
    row = {text: batch["prompt"].index(text) for text in FILES}
    # a mark of beginning stands before the words
    assert tokens[row["a cat and a dog"]].nonzero().tolist() == [[0, 2], [1, 5]]
    assert tokens[row["cat or cat"]].nonzero().tolist() == [[0, 3]] and not tokens[row["a hat"]].any()
    cat, dog = (picture_of(toy, number) for number in (50, 51))
    assert torch.equal(embeddings[row["a cat and a dog"]], torch.stack([cat, dog]))
    assert torch.equal(embeddings[row["cat or cat"], 0], cat) and not embeddings[row["cat or cat"], 1].any()
    assert batch[HAS_EDGE].tolist() == [text in ("cat or cat", "two hats") for text in batch["prompt"]]
    assert torch.equal(batch[EDGE_EMBEDDING][row["two hats"]], picture_of(toy, 53))
    assert not batch[EDGE_EMBEDDING][row["a hat"]].any()


def picture_of(toy: ToyEmbedder, number: int) -> torch.Tensor:
    import numpy as np

    from evolvedirector.store.images import decode_image

    pixels = np.ascontiguousarray(decode_image(picture(number)).transpose(2, 0, 1))
    return toy.embed_images([torch.from_numpy(pixels)])[0]


def test_without_the_words_a_batch_is_as_before(root: Path) -> None:
    batch = whole_batch(root)
    assert not {SUBJECT_TOKENS, SUBJECT_EMBEDDINGS, EDGE_EMBEDDING, HAS_EDGE} & batch.keys()
    moved = EmbeddingDataModule(root, subjects=True, edges=True).transfer_batch_to_device(
        whole_batch(root, subjects=True, edges=True), torch.device("meta"), 0
    )
    assert {name for name, part in moved.items() if torch.is_tensor(part) and part.device.type == "cpu"} == {
        "sample_seed"
    }


def test_a_picture_of_two_samples_is_embedded_once_and_a_second_command_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill(tmp_path / "data", FILES)
    command = [str(root), "--embedder", part(tmp_path)]
    embed.main(command)
    # four images, two subjects of three samples, two edge pictures
    assert "4 different texts (4 now" in (said := capsys.readouterr().out) and "8 different images (8 now" in said
    sha = RevisionFiles(root).current()
    embed.main(command)
    assert RevisionFiles(root).current() == sha
    fill(root, {"a bat": {"subjects": names("bat"), "subject": shown(51)}})
    embed.main(command)
    assert "Embedded 1 samples" in capsys.readouterr().out
    assert whole_batch(root, subjects=True)[SUBJECT_TOKENS].shape[1] == 2


@pytest.mark.parametrize(
    ("files", "said"),
    [({"subjects": names("dog"), "subject": shown(1)}, "The subject 'dog' does not stand in 'a cat'"),
     ({"subjects": names("cat", "a"), "subject": shown(1)}, "has 2 subjects and the pictures subject. "),
     ({"subjects": names("cat"), "subject_2": shown(1)}, "has 1 subjects and the pictures subject_2"),
     ({"subjects": names(*"abcde")}, "Allowed are 1 to 4 names in a list"),
     ({"subjects": names({"name": "cat", "begin": -1}), "subject": shown(1)}, "Allowed are 1 to 4 names"),
     ({"subjects": names({"name": "cat", "extra": 1}), "subject": shown(1)}, "Allowed are 1 to 4 names"),
     ({"subject": shown(1)}, "has a subject and no names")],
)  # fmt: skip
def test_subjects_that_do_not_fit_are_one_sentence_before_anything_is_embedded(
    tmp_path: Path, files: dict[str, FileRef], said: str
) -> None:
    root = fill(tmp_path / "data", {"a cat": files})
    with pytest.raises(UserError, match=re.escape(said)):
        embed.main([str(root), "--embedder", part(tmp_path)])
    assert not (root / "embeddings").exists()


def test_subjects_that_nobody_embedded_are_named(root: Path, tmp_path: Path) -> None:
    arrays = {"text_states": npy([[1] * 4] * 3), "text_embedding": npy([1] * 4), "image_embedding": npy([1] * 4)}
    own = {role: FileRef.of(content, "application/x-npy") for role, content in arrays.items()}
    plain = fill(tmp_path / "plain", {"a cat": own})
    with pytest.raises(UserError, match="subjects is true, and 0 samples of revision 1 have a 'subjects'"):
        whole_batch(plain, subjects=True)
    half = fill(tmp_path / "half", {"a cat": own | {"subjects": names("cat"), "subject": shown(1)}})
    with pytest.raises(UserError, match="1 samples of revision 1 have a 'subjects' that is not embedded, 0 one that"):
        whole_batch(half, subjects=True)
    with pytest.raises(UserError, match="edges is true, and 1 samples"):
        whole_batch(fill(tmp_path / "edge", {"a cat": own | {"edge": shown(1)}}), edges=True)
