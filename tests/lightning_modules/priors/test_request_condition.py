"""Subjects and edges of batches and requests, as a prior trains on them and draws with them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from evolvedirector.callbacks._run.drawing import encode_png
from evolvedirector.errors import UserError
from evolvedirector.lightning_modules import PriorNetwork, ProjectionObjective
from evolvedirector.lightning_modules.priors.prior_objective import edges_lost
from evolvedirector.lightning_modules.priors.request_condition import ConditionReader
from evolvedirector.lightning_modules.priors.subject_states import Subject
from evolvedirector.models.embedder import EDGE_EMBEDDING, HAS_EDGE
from evolvedirector.records import FileRef, ImageRequest, LossRequest
from tests.lightning_modules.priors.prior_toys import DIM, LENGTH, ToyEmbedder, pairs, prior, request
from tests.lightning_modules.test_image_prior import fit, weights

EDGES = PriorNetwork(DIM, heads=2, head_dim=8, layers=1, text_length=LENGTH, reads_edges=True)
CONTROL = "transformer.embedding_control.weight"


class Closing(ToyEmbedder):
    """Counts how often it embeds pictures, and how often it is let go."""

    def __init__(self) -> None:
        self.pictures = self.closed = 0

    def embed_images(self, images: Any) -> Tensor:
        self.pictures += len(images)
        return super().embed_images(images)

    def close(self) -> None:
        self.closed += 1


def shade(value: int) -> FileRef:
    return FileRef.of(encode_png(torch.full((3, 4, 4), value, dtype=torch.uint8)), "image/png", 4, 4)


def names(*given: Any) -> FileRef:
    return FileRef.of(json.dumps(given).encode(), "application/json")


def with_files(prompt: str, **files: FileRef) -> ImageRequest:
    return replace(request(prompt), files=files)


def test_a_request_brings_its_subjects_and_edges_whatever_stands_beside_it() -> None:
    module = prior(network=EDGES)
    two = with_files("a cat and dog", subjects=names("cat", "dog"), subject=shade(250), subject_2=shade(10))
    one = with_files("a cat", subjects=names("cat"), subject=shade(250), edge=shade(200))
    none = request("a cat")
    found = module.embed([two, one, none])
    for place, alone in enumerate((two, one, none)):
        assert torch.equal(module.embed([alone])[0], found[place])
    embedder = ToyEmbedder()
    bright, dark, edge = (embedder.embed_images([torch.full((3, 4, 4), v)])[0] for v in (250, 10, 200))
    given = module.embed([request("a cat and dog")], [[Subject("cat", bright), Subject("dog", dark)]])
    assert torch.equal(given[0], found[0])
    given = module.embed([none], [[Subject("cat", bright)]], edge[None])
    assert torch.equal(given[0], found[1]) and not torch.equal(found[1], found[2])
    swapped = with_files("a cat and dog", subjects=names("cat", "dog"), subject=shade(10), subject_2=shade(250))
    assert not torch.equal(module.embed([swapped])[0], found[0])
    assert len(module.generate([two, one, none])) == 3
    image = encode_png(torch.zeros(3, 4, 4, dtype=torch.uint8))
    asked = [LossRequest("1", image, r.prompt, (5,), r.files) for r in (one, none)]
    losses = module.sample_losses(asked)
    assert losses[0] != losses[1] and module.sample_losses(asked[:1]) == losses[:1]


def test_samples_without_edges_and_those_that_lose_them_read_a_black_picture() -> None:
    embedder = Closing()
    reader = ConditionReader(embedder, LENGTH, reads_edges=True, black_px=4, edge_dropout=0.4)
    batch = pairs() | {EDGE_EMBEDDING: torch.ones(8, DIM), HAS_EDGE: torch.arange(8) != 3}
    measured = reader.of_batch(batch).edge_embedding
    assert measured is not None and (measured == 0).all(1).nonzero().flatten().tolist() == [3]
    lost = edges_lost(batch["sample_seed"], 0.4) | (torch.arange(8) == 3)
    trained = reader.of_batch(batch, batch["sample_seed"]).edge_embedding
    assert trained is not None and torch.equal((trained == 0).all(1), lost) and 1 < lost.sum() < 8
    assert (embedder.pictures, embedder.closed) == (1, 1)
    assert edges_lost(torch.arange(4000), 0.25).float().mean() == pytest.approx(0.25, abs=0.02)


def test_a_lost_edge_follows_from_its_sample_at_any_cut() -> None:
    whole = pairs() | {EDGE_EMBEDDING: torch.randn(8, DIM, generator=torch.Generator().manual_seed(2))}

    def trained(*rows: slice, share: float = 0.5) -> dict[str, Tensor]:
        torch.manual_seed(len(rows))
        sgd = {"optimizer": lambda parameters: torch.optim.SGD(parameters, 0.1)}
        module = prior(ProjectionObjective("mean"), network=EDGES, edge_dropout=share, **sgd)
        parts = [{name: part[some] for name, part in whole.items()} for some in rows]
        fit(module, parts, accumulate_grad_batches=len(rows), steps=1)
        return weights(module)

    one, other = trained(slice(0, 8)), trained(slice(0, 4), slice(4, 8))
    for name, part in one.items():
        torch.testing.assert_close(part, other[name])
    assert not torch.allclose(trained(slice(0, 8), share=0.0)[CONTROL], one[CONTROL])


def test_what_does_not_fit_is_one_sentence() -> None:
    for wrong, said in (
        (with_files("a cat", subject=shade(1)), "has a subject and no names"),
        (with_files("a cat", subjects=names("dog"), subject=shade(1)), "The subject 'dog' does not stand in 'a cat'"),
        (with_files("a cat", subjects=names("cat")), "1 subjects and the pictures none"),
        (with_files("a cat", subjects=names("cat"), subject=names("cat")), "Allowed is a picture"),
        (with_files("a cat", edge=shade(1)), "but this prior has reads_edges: false"),
        (with_files("a cat", subjects=replace(names("cat"), content=None), subject=shade(1)), "without its content"),
    ):
        with pytest.raises(UserError, match=said):
            prior().embed([wrong])
    for wrong_share, network in ((1.0, EDGES), (0.1, None)):
        with pytest.raises(UserError, match="edge_dropout is"):
            prior(edge_dropout=wrong_share, **({} if network is None else {"network": network}))
