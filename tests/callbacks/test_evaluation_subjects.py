"""Held-out prompts are drawn with their references, in the validation loop and by every suite that does not choose."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor

from evolvedirector.callbacks import EvaluationCallback
from evolvedirector.datamodules import SubjectPairDataModule
from evolvedirector.evaluation.suites import HeldOutAccuracy, RewardMeans
from evolvedirector.pairs import BorderMask, DrawnReader, RawPatches
from evolvedirector.pairs.evaluation import DrawnQuestions, SubjectSuite
from evolvedirector.pairs.pictures import pixels_of
from evolvedirector.records import ImageAndPrompt, ImageRequest, Score
from evolvedirector.worlds.shapes.cut_outs import ShapeCutOuts
from tests import toys
from tests.callbacks.held_out_toys import trainer_of

WORLD = ShapeCutOuts()
pytestmark = pytest.mark.filterwarnings("ignore:.*litmodels.*", "ignore:.*val_dataloader.*", "ignore:.*num_workers.*")


class Copies(pl.LightningModule):
    """Copy the reference, or the source of an edit; grey without either. It remembers what it was asked."""

    image_size_px, generation_chunk_size = 32, 4

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[ImageRequest] = []
        self.errors_outside: dict[str, float] = {}

    def generate(self, requests: Sequence[ImageRequest]) -> list[Tensor]:
        self.asked += requests
        self.errors_outside = {request.request_id: 4.0 for request in requests if "mask" in request.files}
        return [self.drawn(request) for request in requests]

    def drawn(self, request: ImageRequest) -> Tensor:
        for role in ("source", "reference"):
            if role in request.files:
                return torch.from_numpy(pixels_of(request.files[role]).copy()).permute(2, 0, 1)
        return torch.full((3, 32, 32), 128, dtype=torch.uint8)

    def validation_step(self, batch: list[ImageRequest], batch_idx: int) -> list[Tensor]:
        return self.generate(batch)


class Brightness:
    fingerprint = "brightness"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        return (Score(item.item_id, toys.mean_tone(item.image)) for item in items)


def questions() -> DrawnQuestions:
    return DrawnQuestions(WORLD, subjects=2, kinds=["place", "tint"], image_size_px=32, nearest_among=6)


def test_held_out_prompts_bring_their_references(tmp_path: Path) -> None:
    asked = questions()
    data = SubjectPairDataModule(tmp_path / "root", held_out=asked, image_size_px=32, generation_chunk_size=3)
    module = Copies()
    reader = DrawnReader(WORLD, RawPatches(8), learned=4, side_px=32)
    measuring = EvaluationCallback(
        {
            "rewards": RewardMeans({"brightness": Brightness()}),
            "subjects": SubjectSuite(asked, RawPatches(8), BorderMask(), reader, side_px=32),
        }
    )
    trainer_of(tmp_path, measuring).validate(module, datamodule=data, verbose=False)
    prompts = {question.prompt.id: question for question in asked.questions()}
    validated = [request for request in module.asked if request.request_id in prompts]
    assert {request.request_id for request in validated} == set(prompts)
    for request in validated:
        assert request.files == prompts[request.request_id].references
    others = [request for request in module.asked if request.request_id not in prompts]
    assert sum(not request.files for request in others) >= len(prompts), "text alone is drawn without references"
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    references = [np.mean(pixels_of(question.references["reference"])) for question in prompts.values()]
    assert figures["suites"]["rewards"]["brightness"]["value"] == pytest.approx(np.mean(references), abs=1.0)
    rows = figures["suites"]["subjects"]
    assert rows["place from words, identity"] == rows["copy of the reference, identity"]
    assert rows["edit, error outside"]["value"] == 4.0
    assert rows["text only, all"]["value"] == 0.0


def test_a_source_without_files_is_drawn_from_words(tmp_path: Path) -> None:
    prompts = tmp_path / "held_out.txt"
    prompts.write_text("a red circle\n")
    data = SubjectPairDataModule(tmp_path / "root", held_out=prompts, image_size_px=32)
    assert data.held_out_files() == {}
    (chunk,) = data.val_dataloader()
    assert next(iter(chunk)).files == {}


def test_the_looks_of_a_training_are_counted_before_it(tmp_path: Path) -> None:
    asked = questions()
    reader = DrawnReader(WORLD, RawPatches(8), learned=4, side_px=32)
    suite = SubjectSuite(asked, RawPatches(8), BorderMask(), reader)
    number = len(asked.questions())
    assert suite.looks(0) == {"reader": number * 4 + number * 5}
    assert HeldOutAccuracy(toys.ToyJudge()).looks(number) == {"reader": number}
