"""The joint space: saved, loaded, refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.models.embedder import Embedder
from evolvedirector.models.embedding_decoder import EmbeddingDecoder
from evolvedirector.records import ImageRequest
from evolvedirector.worlds.joint import SceneDecoder, SceneEmbedder, space_files
from evolvedirector.worlds.joint.space_files import SPACE_FILE
from evolvedirector.worlds.joint.training import drawn_scenes, gate_share, pictures_of
from tests.worlds.joint.joint_toys import WordStates, write_space


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space")
    write_space(folder)
    return folder


def asked(count: int, size_px: int = 32) -> list[ImageRequest]:
    return [ImageRequest(str(number), "a red circle", number, size_px, size_px) for number in range(count)]


def test_a_space_is_the_same_when_trained_again_and_another_for_another_seed(space: Path, tmp_path: Path) -> None:
    write_space(tmp_path / "again")
    write_space(tmp_path / "other", seed=1)
    prints = [
        SceneEmbedder(folder, WordStates()).fingerprint for folder in (space, tmp_path / "again", tmp_path / "other")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_embedder_and_decoder_keep_their_seams_and_name_one_space(space: Path) -> None:
    embedder, decoder = SceneEmbedder(space, WordStates()), SceneDecoder(space)
    assert isinstance(embedder, Embedder) and isinstance(decoder, EmbeddingDecoder)
    assert decoder.embedder_fingerprint == embedder.fingerprint != decoder.fingerprint
    assert decoder.embedding_dim == embedder.embedding_dim


def test_a_texts_embedding_is_its_own_whatever_stands_beside_it(space: Path) -> None:
    embedder = SceneEmbedder(space, WordStates())
    texts = ["a red circle", *[f"{word} green crosses" for word in ("two", "three", "four")] * 30]
    alone, beside = embedder.embed_texts(texts[:1]), embedder.embed_texts(texts)
    assert torch.equal(alone.pooled[0], beside.pooled[0]) and torch.equal(
        alone.states.values[0], beside.states.values[0]
    )
    assert beside.states.mask.sum(1)[0] == 4 and not any(beside.cut)
    assert embedder.embed_texts([]).pooled.shape == (0, 128)


def test_a_text_that_is_too_long_is_cut_and_says_so(space: Path) -> None:
    found = SceneEmbedder(space, WordStates()).embed_texts(["a red circle", "very " * 30])
    assert found.cut == (False, True) and found.states.mask.sum(1).tolist() == [4, 14]


def test_an_images_embedding_is_its_own_and_other_sizes_are_resampled(space: Path) -> None:
    embedder = SceneEmbedder(space, WordStates())
    images = list(pictures_of(drawn_scenes("test", 70, 0)))
    assert torch.equal(embedder.embed_images(images[:1])[0], embedder.embed_images(images)[0])
    large = images[0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.allclose(embedder.embed_images([large]), embedder.embed_images(images[:1]), atol=0.5)
    assert embedder.embed_images([]).shape == (0, 128)


def test_a_picture_is_its_embeddings_alone_in_the_size_asked_for(space: Path) -> None:
    decoder = SceneDecoder(space)
    embeddings = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    drawn = decoder.decode(embeddings, None, asked(3))
    assert all(image.shape == (3, 32, 32) and image.dtype == torch.uint8 for image in drawn)
    assert torch.equal(decoder.decode(embeddings[1:2], None, asked(1, 64))[0][:, ::2, ::2], drawn[1])


def test_what_a_decoder_cannot_draw_is_refused(space: Path) -> None:
    decoder = SceneDecoder(space)
    with pytest.raises(UserError, match="no guidance"):
        decoder.decode(torch.zeros(1, 128), torch.zeros(1, 128), asked(1))
    with pytest.raises(UserError, match=r"\(1, 768\) for 1 images"):
        decoder.decode(torch.zeros(1, 768), None, asked(1))
    with pytest.raises(UserError, match=r"not finite, 1 of 2"):
        decoder.decode(torch.tensor([0.0, torch.nan])[:, None].expand(2, 128), None, asked(2))


def test_another_text_encoder_is_refused(space: Path) -> None:
    with pytest.raises(UserError, match="not of toy-others"):
        SceneEmbedder(space, WordStates("others")).verify()

    class Narrow(WordStates):
        dimension = 8

    with pytest.raises(UserError, match="have 8 values"):
        SceneEmbedder(space, Narrow())


def test_a_folder_without_a_space_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evolvedirector assets joint-space"):
        SceneDecoder(tmp_path).verify()


def test_a_damaged_space_is_refused(space: Path, tmp_path: Path) -> None:
    for file in space.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "decoder.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="does not hold the decoder network"):
        SceneDecoder(tmp_path).decode(torch.zeros(1, 128), None, asked(1))
    record = json.loads((tmp_path / SPACE_FILE).read_text())
    (tmp_path / SPACE_FILE).write_text(json.dumps(record | {"format": "joint-space-0"}))
    with pytest.raises(UserError, match="no record of a joint space"):
        SceneDecoder(tmp_path).verify()


def test_a_space_that_is_half_replaced_is_none(space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in space.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def fail(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(space_files, "save_file", fail)
    networks = {name: space_files.load_network(space, name) for name in ("text", "image", "decoder")}
    with pytest.raises(OSError, match="no room"):
        space_files.save_space(tmp_path, networks, space_files.read_record(space))
    with pytest.raises(UserError, match="no joint space"):
        space_files.read_record(tmp_path)


def test_the_gate_counts_scenes_that_are_read_right() -> None:
    class Through(torch.nn.Module):
        """Keeps a picture whole: what is read then is the artist's own."""

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels

    class Blank(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(pixels)

    assert gate_share(Through(), Through(), 24) >= 0.95
    assert gate_share(Through(), Blank(), 24) == 0.0
