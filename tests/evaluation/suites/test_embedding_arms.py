"""Arms of a prior: what is decoded, measured, kept as pictures, and left out below the gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from evolvedirector.callbacks import EvaluationCallback
from evolvedirector.datamodules import EvolvingDataModule
from evolvedirector.errors import UserError
from evolvedirector.evaluation.suite import Drawn, Offered, ReadsEmbeddings, Sitting, Suite
from evolvedirector.evaluation.suites import EmbeddingArms
from evolvedirector.evaluation.suites.embedding_arms import PICTURES, PRIOR, TEXT, TRUE
from evolvedirector.models.embedder import TextEmbeddings
from evolvedirector.records import ImageRequest, Prompt
from evolvedirector.records.condition import Tokens
from tests import toys


class ToneEmbedder:
    """Texts at an angle, images at the same one, and longer; both on the circle of tones."""

    fingerprint, embedding_dim, text_width, max_tokens = "tones", 2, 2, 1

    @staticmethod
    def at(tones: Sequence[float]) -> Tensor:
        angles = torch.tensor(tones, dtype=torch.float32) / 255
        return torch.stack([angles.cos(), angles.sin()], 1)

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        pooled = self.at([toys.tone_of(text) for text in texts]) if texts else torch.zeros(0, 2)
        states = Tokens(pooled[:, None], torch.ones(len(texts), 1, dtype=torch.bool))
        return TextEmbeddings(states, pooled, (False,) * len(texts))

    def embed_images(self, images: Sequence[Tensor]) -> Tensor:
        return 2 * self.at([float(image.float().mean()) for image in images])


class ToneDecoder:
    fingerprint, embedding_dim, embedder_fingerprint = "tone decoder", 2, "tones"

    def __init__(self, darker: int = 0) -> None:
        self.darker = darker

    def to(self, device: Any) -> None: ...

    def decode(self, embeddings: Tensor, negative: Tensor | None, requests: Sequence[ImageRequest]) -> list[Tensor]:
        tones = torch.atan2(embeddings[:, 1], embeddings[:, 0]) * 255 - self.darker
        return [tone.clamp(0, 255).round().to(torch.uint8).expand(3, 8, 8).contiguous() for tone in tones]


class NextTones:
    fingerprint = "next tones"

    def negatives(self, text: str) -> list[str]:
        return [f"tone {toys.tone_of(text) + step}" for step in (-40, 40)]


PROMPTS = [Prompt.create(f"tone {tone}", skill="tone") for tone in (60, 120, 180)]


def suite_of(darker: int = 0, **named: Any) -> EmbeddingArms:
    parts = (toys.ToyJudge(), ToneEmbedder(), ToneDecoder(darker), toys.ToyTeacher())
    return EmbeddingArms(*parts, **({"negatives": NextTones()} | named))  # type: ignore[arg-type]


def measured(suite: EmbeddingArms, folder: Path, predicted: Sequence[float]) -> Any:
    offered = Offered(PROMPTS, (), 8)
    asked = suite.requests(offered)
    embeddings = dict(zip(asked, ToneEmbedder.at(predicted).tolist(), strict=True))
    drawn = [
        Drawn(key, prompt, toys.flat_png(round(t)))
        for (key, (_, prompt)), t in zip(asked.items(), predicted, strict=True)
    ]
    sitting = Sitting(asked, offered, folder, embeddings=embeddings)
    return suite.figures(suite.read(drawn, sitting), sitting)


def test_each_arm_has_its_figures_and_the_prior_comes_first(tmp_path: Path) -> None:
    suite = suite_of()
    assert isinstance(suite, Suite) and isinstance(suite, ReadsEmbeddings)
    outcome = measured(suite, tmp_path, (60, 120, 220))  # the last one is 40 too bright
    values = {name: row.value for name, row in outcome.rows.items()}
    assert next(iter(values)) == f"{PRIOR}, accuracy"
    assert values[f"{PRIOR}, accuracy"] == pytest.approx(2 / 3, abs=1e-5)
    assert values[f"{TRUE}, accuracy"] == values[f"{TEXT}, accuracy"] == 1.0
    assert values[f"{TRUE}, squared distance"] == pytest.approx(0.0, abs=1e-5)
    assert values[f"{TEXT}, squared distance"] == pytest.approx(1.0, abs=1e-3)  # half as long
    assert values[f"{TEXT}, own text first"] == 1.0 > values[f"{PRIOR}, own text first"]
    assert values[f"{PRIOR}, cosine to text"] == pytest.approx((2 + torch.tensor(40 / 255).cos().item()) / 3, abs=1e-5)


def test_below_the_gate_no_other_figure_is_given(tmp_path: Path) -> None:
    outcome = measured(suite_of(darker=30), tmp_path, (60, 120, 180))
    assert list(outcome.rows) == [f"{TRUE}, accuracy"] and outcome.rows[f"{TRUE}, accuracy"].value == 0.0
    assert outcome.summary == {PICTURES: None}


def test_pictures_of_every_arm_are_kept_and_named(tmp_path: Path) -> None:
    outcome = measured(suite_of(), tmp_path, (60, 120, 220))
    shown = outcome.summary[PICTURES]
    assert [row["prompt"] for row in shown] == [prompt.text for prompt in PROMPTS]
    assert set(shown[2]["pictures"]) == {"drawn", TRUE, TEXT, PRIOR} and not shown[2]["right"][PRIOR]
    for row in shown:
        for sha256 in row["pictures"].values():
            assert (tmp_path / PICTURES / f"{sha256}.png").is_file()


def test_a_prompt_that_the_artist_refuses_is_left_out(tmp_path: Path) -> None:
    suite = suite_of()
    suite.artist = toys.ToyTeacher(refuses=True)
    assert not measured(suite, tmp_path, (60, 120, 180)).rows


def test_its_fingerprint_names_the_pairs_of_the_ridge() -> None:
    fingerprints = {suite_of(pairs=pairs).fingerprint for pairs in (None, "runs/one", "runs/two")}
    assert len(fingerprints) == 3 and suite_of(pairs="runs/one").fingerprint in fingerprints


def test_a_gate_outside_of_0_to_1_is_refused() -> None:
    with pytest.raises(UserError, match="gate is 2"):
        suite_of(gate=2.0)


class TonePrior(toys.ToyStudent):
    """Predicts the text's own angle, and decodes it."""

    def embed(self, requests: Sequence[ImageRequest]) -> Tensor:
        return ToneEmbedder().embed_texts([request.prompt for request in requests]).pooled

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        return ToneDecoder().decode(self.embed(requests), None, requests)


@pytest.mark.parametrize("module", [TonePrior, toys.ToyStudent])
def test_a_module_that_predicts_embeddings_is_an_arm_and_another_is_none(tmp_path: Path, module: type) -> None:
    held_out = toys.ToyPrompts(4)
    data = EvolvingDataModule(
        tmp_path / "data", seeds=toys.ToyPrompts(2), held_out=held_out, global_batch_size=2, image_size_px=8
    )
    callback = EvaluationCallback({"arms": suite_of()})
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False
    )
    trainer.validate(module(), datamodule=data, verbose=False)
    rows = callback.summary_entries()["suites"]["arms"]
    assert rows[f"{TRUE}, accuracy"]["value"] == 1.0
    assert (f"{PRIOR}, accuracy" in rows) == (module is TonePrior)
