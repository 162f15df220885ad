"""A round's name changes with whoever decides in it, and with nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evolvedirector.evolution import Budget
from evolvedirector.evolution.round_id import RoundSettings, round_id_of
from evolvedirector.judges.health.report import JudgeHealth
from evolvedirector.policies import EvolveDirectorPolicy, Pace, ScreeningPolicy
from evolvedirector.transport.endpoint import Endpoint
from evolvedirector.worlds.shapes import HeldOutPrompts, MiniatureWriter
from evolvedirector.worlds.shapes.world import World
from evolvedirector.writers import OpenAIChatWriter, TransformersWriter
from tests.toys import ToyJudge, ToyTeacher, ToyWriter

SETTINGS = RoundSettings({"toy": ToyTeacher()}, ToyJudge(), ToyWriter(), ScreeningPolicy(), Budget(40))


def name(settings: RoundSettings = SETTINGS, student: tuple[str, ...] = ("Student", "7"), step: int = 3) -> str:
    return round_id_of(settings, "", student, step, "sha")


@pytest.mark.parametrize(
    "change",
    [
        {"policy": ScreeningPolicy(pace=Pace(buying_share=0.4))},
        {"policy": EvolveDirectorPolicy()},
        {"writer": MiniatureWriter()},
        {"budget": Budget(41)},
        {"teachers": {"toy": ToyTeacher("other")}},
        {"judge_health": JudgeHealth()},
        {"tie_margin": 0.1},
        {"seed": 1},
    ],
)
def test_whoever_decides_is_part_of_the_name(change: dict[str, Any]) -> None:
    assert name(replace(SETTINGS, **change)) != name()
    assert name(student=("Student", "8")) != name() != name(step=4)


def test_what_a_part_counts_while_it_works_is_not() -> None:
    policy, teacher = ScreeningPolicy(), ToyTeacher()
    policy.rounds_seen = 7  # type: ignore[attr-defined]
    teacher.asked.append("a prompt")
    assert name(replace(SETTINGS, policy=policy, teachers={"toy": teacher})) == name()


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (ScreeningPolicy, {"skills": ["single"]}),
        (ScreeningPolicy, {"without": {"mutation"}}),
        (EvolveDirectorPolicy, {"expansions": 2}),
        (EvolveDirectorPolicy, {"check_teacher": True}),
        (EvolveDirectorPolicy, {"without": {"deletion"}}),
        (MiniatureWriter, {"world": World(max_count=3)}),
        (MiniatureWriter, {"held_out": HeldOutPrompts(seed=1)}),
        (lambda **k: OpenAIChatWriter(Endpoint("http://localhost:1/v1"), **{"model": "a", **k}), {"model": "b"}),
        (lambda **k: OpenAIChatWriter(Endpoint("http://localhost:1/v1"), "a", **k), {"examples": {"dogs": ["a dog"]}}),
        (lambda **k: TransformersWriter("a", **k), {"temperature": 0.5}),
        (lambda **k: TransformersWriter("a", **k), {"quantisation": "nf4"}),
    ],
)
def test_every_setting_that_changes_what_a_part_says_is_in_its_fingerprint(build: Any, change: dict[str, Any]) -> None:
    assert build().fingerprint == build().fingerprint != build(**change).fingerprint


def test_where_a_part_works_is_in_no_fingerprint() -> None:
    near, far = (OpenAIChatWriter(Endpoint(f"http://localhost:{port}/v1"), "a") for port in (1, 2))
    assert near.fingerprint == far.fingerprint
    assert TransformersWriter("a", device="cpu", batch_size=2).fingerprint == TransformersWriter("a").fingerprint
