"""Nothing is asked for a measurement that may cost money: every part is paid that is not known to be free."""

from __future__ import annotations

from typing import Any

import pytest

from evolvedirector.judges import OpenAIVisionJudge, PanelJudge, TransformersJudge
from evolvedirector.planning.unasked import AskingCost, asking_cost
from evolvedirector.rewards import SharpnessScore
from evolvedirector.teachers import BFLTeacher, FalTeacher, OpenAIImagesTeacher, ReplicateTeacher, StabilityTeacher
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.worlds.shapes import MiniatureJudge, MiniatureTeacher, MiniatureWriter
from evolvedirector.writers import OpenAIChatWriter
from tests.loop_toys import FreeJudge, PaidJudge, PaidTeacher
from tests.toys import ToyJudge, ToyTeacher

SERVICES = (OpenAIImagesTeacher, BFLTeacher, FalTeacher, ReplicateTeacher, StabilityTeacher)
SERVICE = Endpoint("https://api.example.org/v1")
FREE, UNKNOWN = AskingCost(True, 0.0), AskingCost(False, None)


class Held(MiniatureJudge):
    """A judge of an embedded world that asks another one."""

    __module__ = "evolvedirector.worlds.mine"

    def __init__(self, inner: object) -> None:  # None: nobody yet
        super().__init__()
        self.inner = inner


@pytest.mark.parametrize(
    ("part", "cost"),
    [
        (MiniatureTeacher(), FREE),
        (MiniatureTeacher(cost_usd_per_image=0.04), AskingCost(True, 0.04, is_play=True)),
        (MiniatureWriter(), FREE),
        (FreeJudge(), FREE),
        (SharpnessScore(), FREE),
        (PanelJudge({"a": MiniatureJudge(), "b": MiniatureJudge(seed=1)}), FREE),
        (OpenAIVisionJudge(SERVICE, "m", cost_usd_per_look=0.0), FREE),
        (PaidTeacher(), AskingCost(False, 0.04)),
        (OpenAIVisionJudge(SERVICE, "m", cost_usd_per_look=0.01), AskingCost(False, 0.01)),
        (OpenAIVisionJudge(SERVICE, "m"), UNKNOWN),
        (OpenAIChatWriter(SERVICE, "m"), UNKNOWN),
        (ToyTeacher(), UNKNOWN),
        (PanelJudge({"a": MiniatureJudge(), "b": ToyJudge()}), UNKNOWN),
        (PanelJudge({"a": MiniatureJudge(), "b": PaidJudge()}), AskingCost(False, 0.001)),
        (Held(ToyJudge()), UNKNOWN),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_be_asked(part: Any, cost: AskingCost) -> None:
    assert asking_cost(part) == cost


@pytest.mark.parametrize("teacher", SERVICES, ids=lambda teacher: teacher.__name__)
def test_every_service_that_draws_is_paid_unless_its_price_is_said_to_be_0(teacher: Any) -> None:
    named: dict[str, Any] = {} if teacher is StabilityTeacher else {"model": "some/model"}
    if teacher is OpenAIImagesTeacher:
        named["endpoint"] = SERVICE
    assert not asking_cost(teacher(**named)).is_free
    assert asking_cost(teacher(**named, cost_usd_per_image=0.25)) == AskingCost(False, 0.25)
    assert asking_cost(teacher(**named, cost_usd_per_image=0.0)) == FREE


def test_a_model_on_this_machine_is_free(tmp_path: Any) -> None:
    assert asking_cost(TransformersJudge("someone/some-model", revision="a" * 40)) == FREE


def test_parts_that_know_each_other_are_looked_at_once() -> None:
    one, other = Held(None), Held(None)
    one.inner, other.inner = other, one
    assert asking_cost(one) == FREE


def test_a_price_in_the_budget_makes_a_part_paid() -> None:
    assert asking_cost(FreeJudge(), listed_usd=0.002) == AskingCost(False, 0.002)
    assert asking_cost(PaidTeacher(), listed_usd=0.002).price_usd == 0.04, "the dearest that is known"


def test_it_is_told_in_words() -> None:
    assert UNKNOWN.told("a look") == "price of a look unknown" and FREE.told() == "free"
    assert AskingCost(False, 0.04).told("an image") == "0.04 USD an image"
    assert AskingCost(True, 0.04, is_play=True).told("an image") == "0.04 USD an image, play money"
