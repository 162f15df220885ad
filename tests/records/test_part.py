"""A part has a capability when it has its member, and crosses to another process before it is first used."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from evolvedirector import judges, rewards, teachers, writers
from evolvedirector.judges.judge import models_of
from evolvedirector.policies import EvolveDirectorPolicy, ScreeningPolicy
from evolvedirector.records.part import (
    Part,
    bytes_of,
    close_parts,
    price_of,
    requests_in_flight_of,
    verify_parts,
)
from evolvedirector.transport.chat import ChatCompleter
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.worlds import shapes
from tests.toys import ToyJudge

HOST = Endpoint("http://localhost:1/v1")


class Able:
    """Has every capability."""

    fingerprint = "able"
    requests_in_flight = 7

    def __init__(self, price: float | None = 0.5, size: int | None = 9, broken: bool = False) -> None:
        self.price, self.size, self.broken, self.closed = price, size, broken, False

    def price_usd(self) -> float | None:
        return self.price

    def estimated_bytes(self) -> int | None:
        return self.size

    def verify(self) -> None:
        if self.broken:
            raise ValueError("it is broken")

    def close(self) -> None:
        self.closed = True
        if self.broken:
            raise OSError("it cannot close")


def test_what_a_part_lacks_it_does_not_cost_take_or_ask() -> None:
    assert price_of(Able(), object(), None, times=2) == 1.0 and price_of(object()) == 0.0
    assert price_of(Able(), Able(price=None)) is None
    assert bytes_of(Able(), object(), None, Able(size=None)) == [9, 0, 0, 0]
    assert requests_in_flight_of(object(), Able(), None) == 7 and requests_in_flight_of(object()) == 0


def test_the_first_part_that_cannot_work_says_why_and_all_are_closed() -> None:
    parts = Able(), object(), Able(broken=True), Able()
    verify_parts(*parts[:2])
    with pytest.raises(ValueError, match="it is broken"):
        verify_parts(*parts)
    with pytest.raises(OSError, match="cannot close"):
        close_parts(*parts)
    assert [part.closed for part in parts if isinstance(part, Able)] == [True] * 3


def test_judges_that_share_a_model_are_known_through_corrections_and_panels() -> None:
    hosted = judges.OpenAIVisionJudge(HOST, "vlm")
    panel = judges.PanelJudge({"one": judges.CalibratedJudge(hosted), "two": ToyJudge()})
    assert models_of(panel) == {hosted.fingerprint, "model vlm", "toy judge"}
    assert models_of(judges.FaithfulnessJudge(judges.OpenAIVisionJudge(HOST, "vlm", image_size_px=64))) & models_of(
        panel
    )
    assert models_of(None) == frozenset()


@pytest.mark.parametrize(
    "build",
    [
        lambda: judges.OpenAIVisionJudge(HOST, "m"),
        lambda: judges.PanelJudge({"a": shapes.MiniatureJudge()}),
        lambda: judges.CalibratedJudge(shapes.MiniatureJudge()),
        lambda: judges.OCRGate(shapes.MiniatureJudge(), judges.RapidOCRReader()),
        lambda: writers.OpenAIChatWriter(HOST, "m"),
        lambda: writers.TransformersWriter("m"),
        lambda: shapes.MiniatureWriter(),
        lambda: shapes.MiniatureWriter(held_out=shapes.HeldOutPrompts()),
        lambda: shapes.MiniatureWriter(held_out=shapes.MiniaturePrompts(count=2)),
        lambda: shapes.MiniatureTeacher(),
        lambda: ScreeningPolicy(),
        lambda: EvolveDirectorPolicy(),
        lambda: teachers.OpenAIImagesTeacher(HOST, "m"),
        lambda: teachers.StabilityTeacher(),
        lambda: teachers.BFLTeacher(),
        lambda: teachers.FalTeacher("a/b"),
        lambda: teachers.ReplicateTeacher("a/b"),
        lambda: teachers.HTTPTeacher(HOST, "p", {"prompt": "{prompt}"}, None),
        lambda: ChatCompleter(HOST, "m"),
    ],
)
def test_a_part_crosses_to_another_process_as_it_was_built(build: Callable[[], Any]) -> None:
    part = build()
    again = pickle.loads(pickle.dumps(part))
    assert isinstance(again, type(part)) and again.fingerprint == part.fingerprint and isinstance(again, Part)


@pytest.mark.parametrize(
    "build",
    [
        lambda: judges.TransformersJudge("m"),
        lambda: judges.FaithfulnessJudge(judges.TransformersJudge("m")),
        lambda: judges.ModelQuestions(ChatCompleter(HOST, "m")),
        lambda: rewards.CLIPScore("m"),
        lambda: rewards.VQAScore(judges.TransformersJudge("m")),
        lambda: teachers.DiffusersTeacher("m"),
        lambda: teachers.FolderTeacher("images"),
        lambda: teachers.WebDatasetTeacher("images.tar"),
    ],
)
def test_a_part_whose_files_lie_elsewhere_crosses_too(build: Callable[[], Any]) -> None:
    part = build()
    assert isinstance(pickle.loads(pickle.dumps(part)), type(part))
