"""Kandinsky's decoder draws what the stock pipeline draws, and refuses what belongs to another space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import KandinskyDecoder
from evolvedirector.models.embedding_decoder import EmbeddingDecoder
from evolvedirector.models.part_files import built_part
from evolvedirector.records import ImageRequest
from tests.lightning_modules.decoders.tiny_decoders import WIDTH, save_kandinsky


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kandinsky(tmp_path_factory.mktemp("kandinsky"))


def decoder(folder: Path, **options: Any) -> KandinskyDecoder:
    given = {"embedding_dim": WIDTH, "sampling_steps": 2, "image_encoder": str(folder), "chunk_size": 2}
    return KandinskyDecoder(str(folder), **(given | options))


def requests(count: int, side_px: int = 16) -> list[ImageRequest]:
    return [ImageRequest(str(n), "a red circle", 7 + n, side_px, side_px) for n in range(count)]


def embeddings(count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3))


def test_it_draws_what_the_stock_pipeline_draws_behind_a_prior(folder: Path) -> None:
    from diffusers import KandinskyV22Pipeline
    from transformers import CLIPVisionModelWithProjection

    stock = KandinskyV22Pipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    with torch.no_grad():
        zero = encoder(torch.zeros(1, 3, 16, 16)).image_embeds
    generators = [torch.Generator().manual_seed(7 + n) for n in range(2)]
    for generator in generators:
        torch.randn(1, WIDTH, generator=generator)  # what a prior draws
    options: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 7.5}
    (first, second) = stock(
        image_embeds=embeddings(2), negative_image_embeds=zero.repeat(2, 1), generator=generators, **options
    ).images
    drawn = decoder(folder).decode(embeddings(2), None, requests(2))
    for image, wanted in zip(drawn, (first, second), strict=True):
        assert image.dtype == torch.uint8 and image.float().std() > 5
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(wanted))


def test_an_image_depends_on_its_request_alone(folder: Path) -> None:
    part = decoder(folder)
    sizes = [*requests(2), *requests(3, 32)[2:]]
    drawn = part.decode(embeddings(3), None, sizes)
    assert [tuple(image.shape) for image in drawn] == [(3, 16, 16), (3, 16, 16), (3, 32, 32)]
    alone = part.decode(embeddings(3)[1:2], None, sizes[1:2])
    assert torch.equal(alone[0], drawn[1])
    part.close()
    assert torch.equal(part.decode(embeddings(3)[1:2], None, sizes[1:2])[0], drawn[1]), "it loads again"
    assert part.decode(embeddings(0), None, []) == []


def test_the_negative_embedding_comes_from_a_file_or_the_caller(folder: Path, tmp_path: Path) -> None:
    away = embeddings(1)
    np.save(tmp_path / "away.npy", away.numpy())
    from_file = decoder(folder, image_encoder=None, negative_file=tmp_path / "away.npy")
    plain = decoder(folder)
    drawn = from_file.decode(embeddings(2), None, requests(2))
    assert torch.equal(torch.stack(drawn), torch.stack(plain.decode(embeddings(2), away.expand(2, -1), requests(2))))
    assert not torch.equal(drawn[0], plain.decode(embeddings(2), None, requests(2))[0])
    assert from_file.fingerprint != plain.fingerprint


def test_it_is_built_from_yaml_and_says_what_it_is(folder: Path) -> None:
    content = {
        "class_path": "evolvedirector.lightning_modules.KandinskyDecoder",
        "init_args": {"model": str(folder), "embedding_dim": WIDTH, "guidance_scale": 1.0},
    }
    part = built_part(content, EmbeddingDecoder, "decoder")
    part.verify()
    assert part.embedding_dim == WIDTH and part.embedder_fingerprint is None
    assert part.estimated_bytes() > 100_000
    assert part.fingerprint != decoder(folder, sampling_steps=3).fingerprint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"embedding_dim": 768}, "reads embeddings of width 32, but embedding_dim is 768"),
        ({"negative_file": "away.npy", "image_encoder": None}, "shape \\(16,\\)"),
        ({"negative_file": "words.npy", "image_encoder": None}, "cannot be read"),
        ({"negative_file": "claims.npy", "image_encoder": None}, "cannot be read"),
        ({"negative_file": "away.npy"}, "both say"),
        ({"image_encoder": None}, "nothing says what guidance leads away from"),
        ({"sampling_steps": 0}, "sampling_steps is 0"),
        ({"model": "kandinsky-community/kandinsky-2-2-decoder"}, "has no revision"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("away.npy", np.zeros(16))
    with open("claims.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**60,)}
        np.lib.format.write_array_header_1_0(file, header)
    np.save("words.npy", np.array(["a", {}], dtype=object), allow_pickle=True)
    model = options.pop("model", str(folder))
    given = {"embedding_dim": WIDTH, "image_encoder": str(folder)} | options
    with pytest.raises(UserError, match=words):
        KandinskyDecoder(model, **given).verify()


def test_embeddings_of_another_space_and_other_sizes_are_refused(folder: Path) -> None:
    part = decoder(folder)
    bad = embeddings(2)
    bad[1, 0] = float("nan")
    for given, negative, asked, words in (
        (torch.zeros(2, 24), None, requests(2), "width 32, but these have the shape \\(2, 24\\)"),
        (embeddings(2), torch.zeros(2, 24), requests(2), "negative embeddings of width 32"),
        (embeddings(1), None, requests(2), "1 embeddings for 2 requests"),
        (bad, None, requests(2), "not finite"),
        (embeddings(1), None, requests(1, 18), "multiple of 4"),
    ):
        with pytest.raises(UserError, match=words):
            part.decode(given, negative, asked)
