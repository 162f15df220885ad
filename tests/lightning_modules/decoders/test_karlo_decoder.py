"""Karlo's decoder draws what the deprecated stock pipeline draws behind its prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import KarloDecoder
from evolvedirector.models.embedding_decoder import EmbeddingDecoder
from evolvedirector.models.part_files import built_part
from evolvedirector.records import ImageRequest
from tests.lightning_modules.decoders.tiny_decoders import WIDTH, karlo, save_karlo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_karlo(tmp_path_factory.mktemp("karlo"))


def decoder(folder: Path, **options: Any) -> KarloDecoder:
    given = {"embedding_dim": WIDTH, "sampling_steps": 2, "super_resolution_steps": 2, "chunk_size": 2}
    return KarloDecoder(str(folder), **(given | options))


def requests(count: int, side_px: int = 16) -> list[ImageRequest]:
    texts = ("a red circle", "two stars", "a cat")
    return [ImageRequest(str(n), texts[n], 7 + n, side_px, side_px) for n in range(count)]


def embeddings(count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3))


class Answers:
    """A prior that answers with given embeddings, and leaves the generators as ours does."""

    def __init__(self, generators: list[torch.Generator], answer: torch.Tensor) -> None:
        self.generators, self.answer = generators, answer

    def post_process_latents(self, latents: torch.Tensor) -> torch.Tensor:
        for n, generator in enumerate(self.generators):
            torch.randn(1, WIDTH, generator=generator.manual_seed(7 + n))
        return self.answer


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_it_draws_what_the_stock_pipeline_draws_behind_its_prior(
    folder: Path, tmp_path: Path, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import PriorTransformer, UnCLIPPipeline, UnCLIPScheduler

    size = {"num_attention_heads": 1, "attention_head_dim": 8, "num_layers": 1}
    prior = PriorTransformer(**size, embedding_dim=WIDTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = karlo(tmp_path)
    stock = UnCLIPPipeline(prior=prior, prior_scheduler=UnCLIPScheduler(prediction_type="sample"), **parts)
    stock.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    monkeypatch.setattr(prior, "post_process_latents", Answers(generators, embeddings(2)).post_process_latents)
    steps = dict.fromkeys(
        ("prior_num_inference_steps", "decoder_num_inference_steps", "super_res_num_inference_steps"), 2
    )
    images = stock(
        [request.prompt for request in requests(2)],
        **steps,
        generator=generators,
        prior_guidance_scale=1.0,
        decoder_guidance_scale=guidance,
    ).images
    drawn = decoder(folder, guidance_scale=guidance).decode(embeddings(2), None, requests(2))
    for image, wanted in zip(drawn, images, strict=True):
        assert image.dtype == torch.uint8 and 5 < image.float().std() < 120
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(wanted))


def test_an_image_depends_on_its_request_alone(folder: Path) -> None:
    part = decoder(folder)
    drawn = part.decode(embeddings(3), None, requests(3))
    assert torch.equal(part.decode(embeddings(3)[2:], None, requests(3)[2:])[0], drawn[2])
    part.close()
    assert torch.equal(part.decode(embeddings(3)[2:], None, requests(3)[2:])[0], drawn[2]), "it loads again"
    other = [ImageRequest("0", "a green square", 7, 16, 16)]
    assert not torch.equal(part.decode(embeddings(1), None, other)[0], drawn[0]), "the decoder reads the text"


def test_it_is_built_from_yaml_and_says_what_it_is(folder: Path) -> None:
    content = {
        "class_path": "evolvedirector.lightning_modules.KarloDecoder",
        "init_args": {"model": str(folder), "embedding_dim": WIDTH},
    }
    part = built_part(content, EmbeddingDecoder, "decoder")
    part.verify()
    assert part.embedding_dim == WIDTH and part.estimated_bytes() > 100_000
    assert part.fingerprint != decoder(folder).fingerprint


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="reads embeddings of width 32, but embedding_dim is 1280"):
        decoder(folder, embedding_dim=1280).verify()
    with pytest.raises(UserError, match="super_resolution_steps is 1"):
        decoder(folder, super_resolution_steps=1)
    with pytest.raises(UserError, match="has no revision"):
        KarloDecoder("kakaobrain/karlo-v1-alpha")
    part = decoder(folder)
    for given, negative, asked, words in (
        (torch.zeros(1, 24), None, requests(1), "width 32, but these have the shape \\(1, 24\\)"),
        (embeddings(1), embeddings(1), requests(1), "among its own weights"),
        (embeddings(1), None, requests(1, 32), "Allowed is 16 x 16 px"),
    ):
        with pytest.raises(UserError, match=words):
            part.decode(given, negative, asked)
