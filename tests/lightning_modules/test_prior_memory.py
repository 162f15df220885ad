"""What `check` predicts of a prior's work is what the allocator of a CPU hands out, as torch's profiler traces it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evolvedirector.lightning_modules import (
    DiffusionPriorObjective,
    EclipseObjective,
    ImagePrior,
    KandinskyDecoder,
    PriorNetwork,
    image_prior,
)
from evolvedirector.lightning_modules.faked import faked
from evolvedirector.models.embedder import TextEmbeddings
from evolvedirector.planning.memory import PredictsWork
from evolvedirector.records import ImageRequest
from evolvedirector.records.condition import Tokens
from tests.lightning_modules.decoders.tiny_decoders import WIDTH, save_kandinsky
from tests.lightning_modules.test_predicted_memory import WITHIN, traced_peak

BATCH, LENGTH = 16, 20


class Embedder:
    """Zeros, of the widths of the stand-ins."""

    embedding_dim = text_width = WIDTH
    max_tokens, fingerprint = LENGTH, "zeros"

    def embed_texts(self, texts: Any) -> TextEmbeddings:
        mask = torch.ones(len(texts), LENGTH, dtype=torch.bool)
        return TextEmbeddings(Tokens(torch.zeros(len(texts), LENGTH, WIDTH), mask), torch.zeros(len(texts), WIDTH), ())

    def embed_images(self, images: Any) -> torch.Tensor:
        return torch.zeros(len(images), WIDTH)


def prior(objective: Any = None, decoder: Any = None, **numbers: Any) -> ImagePrior:
    network = PriorNetwork(WIDTH, heads=4, head_dim=16, layers=3, text_length=LENGTH, **numbers)
    chunk = {"generation_chunk_size": 2, "image_size_px": 64}
    return ImagePrior(objective or EclipseObjective(0.5), Embedder(), decoder, network, **chunk)  # type: ignore[arg-type]


def batch(edges: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt": [str(number) for number in range(BATCH)],
        "text_states": torch.randn(BATCH, LENGTH, WIDTH),
        "text_mask": torch.ones(BATCH, LENGTH, dtype=torch.bool),
        "sample_seed": torch.arange(BATCH),
    }
    roles = ("text_embedding", "image_embedding", *(["edge_embedding"] if edges else []))
    return found | {role: torch.randn(BATCH, WIDTH) for role in roles}


@pytest.mark.parametrize(
    ("objective", "precision", "numbers"),
    [(EclipseObjective(0.5), "32-true", {"reads_edges": True}), (EclipseObjective(0.5), "bf16-mixed", {}),
     (DiffusionPriorObjective(), "32-true", {}), (EclipseObjective(0.5), "32-true", {"dropout": 0.2})],
)  # fmt: skip
def test_a_step_takes_what_was_predicted(
    objective: Any, precision: str, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_prior, "log_training", lambda *_: 0)
    monkeypatch.setattr(image_prior, "goes_to_loggers", lambda _: False)
    module = prior(objective, **numbers)
    assert isinstance(module, PredictsWork)
    predicted = module.work_bytes(BATCH, (0, 0), precision)
    assert module.transformer is None and predicted.unknown == {} and predicted.draw is None
    module.configure_model()
    vars(module)["_trainer"] = SimpleNamespace(optimizers=[])
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")

    def step(pairs: dict[str, Any]) -> None:
        with half:
            loss = module.training_step(pairs, 0)
        for part in module.parameters():
            part.grad = None
        loss.backward()

    step(pairs := batch(bool(numbers.get("reads_edges"))))
    given = sum(part.nbytes for part in pairs.values() if torch.is_tensor(part))
    train = traced_peak(lambda: step(pairs), with_onednn=precision == "32-true") + given
    assert predicted.train == pytest.approx(train, rel=WITHIN)


@pytest.mark.slow
def test_drawing_through_the_decoder_is_predicted_from_its_config(tmp_path: Path) -> None:
    folder = save_kandinsky(tmp_path / "kandinsky")
    decoder = KandinskyDecoder(
        str(folder), embedding_dim=WIDTH, sampling_steps=2, image_encoder=str(folder), chunk_size=2
    )
    module = prior(decoder=decoder)
    predicted = module.work_bytes(BATCH, (0, 0), "32-true")
    assert predicted.unknown == {} and decoder._pipeline is None
    requests = [ImageRequest(str(n), "a", n, 64, 64) for n in range(2)]
    module.generate(requests)
    assert predicted.draw == pytest.approx(traced_peak(lambda: module.generate(requests)), rel=WITHIN)


@pytest.mark.slow
def test_more_pairs_take_more_and_a_full_one_is_predicted_without_memory() -> None:
    small, large = (prior().work_bytes(count, (0, 0), "32-true").train for count in (4, 64))
    assert small is not None and large is not None and large > 8 * small
    whole = ImagePrior(EclipseObjective(), Embedder(), network=PriorNetwork(1280))  # type: ignore[arg-type]
    found = whole.work_bytes(1024, (0, 0), "bf16-mixed")
    assert found.train is not None and 5 * 2**30 < found.train < 80 * 2**30


def test_a_network_that_is_lent_stays_as_it_was() -> None:
    with torch.device("meta"):
        network = torch.nn.Linear(4, 4)
    with faked(network) as (lent, tracker):
        lent(torch.empty(2, 4))
    assert network.weight.is_meta and tracker.peak_bytes > 0
