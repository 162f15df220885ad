"""A probe finds a hidden word with few looks, names no other, and ends where it was told to."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import pytest

from evolvedirector.errors import UserError
from evolvedirector.evaluation.words import terms_of, word_findings
from evolvedirector.evolution.candidates import accept_texts
from evolvedirector.evolution.probing.plan import LEAST_PER_SKILL, Ended, ProbeSettings, next_step, probe
from evolvedirector.evolution.probing.sightings import Answer, Sightings, failing_chances
from evolvedirector.records import UNLABELLED, JudgeAccuracy, Prompt, WriteRequest, seed_of
from evolvedirector.worlds.shapes import MiniatureWriter, World

WORLD = World(("circle", "square", "triangle", "star"), ("red", "green", "blue", "yellow", "purple", "orange"))
"""Of its even prompts one in 24 says `above`."""


class Pretend:
    """The world's writer; a student that fails exactly what holds the hidden word; a judge that errs."""

    def __init__(self, hidden: str, error: float, looks: int, seed: int, world: World = WORLD) -> None:
        self.hidden, self.error, self.left, self.seed = hidden, error, looks, seed
        self.writer, self.looked = MiniatureWriter(world), 0

    def write(
        self, requests: Sequence[tuple[WriteRequest, Prompt | None]], known: Collection[str]
    ) -> list[Prompt] | None:
        replies = {reply.request_id: reply for reply in self.writer.write([request for request, _ in requests])}
        return accept_texts(requests, replies, known, set()).prompts

    def look(self, drawings: Sequence[tuple[Prompt, int]]) -> list[Answer | None]:
        answers: list[Answer | None] = []
        for prompt, number in drawings:
            wrong = random.Random(seed_of("wrong", self.seed, prompt.id, number)).random() < self.error
            fails = self.hidden in terms_of(prompt.text)
            answers.append(Answer(f"{prompt.id} {number}", fails != wrong) if self.looked < self.left else None)
            self.looked += answers[-1] is not None
        return answers


def probed(hidden: str, error: float, looks: int, seed: int, within: float = 0.0) -> tuple[Sightings, Ended]:
    sightings, judge = Sightings(), JudgeAccuracy(1 - error, 1 - error, 20, 20)
    ended = probe(Pretend(hidden, error, looks, seed), ProbeSettings(looks, None, within, seed=seed), judge, sightings)
    return sightings, ended


@pytest.mark.parametrize(("error", "looks"), [(0.0, 150), (0.2, 600)])
def test_the_hidden_word_is_named_and_no_other(error: float, looks: int) -> None:
    """One even prompt in 24 holds the word, and of what this judge calls failing most does not."""
    names = []
    for seed in range(3):
        sightings, ended = probed("above", error, looks, seed)
        assert ended == "budget" and sum(len(one.failed) for one in sightings.prompts.values()) == looks
        names.append([finding.word for finding in word_findings(sightings.seen()) if finding.named])
    assert all(found[:1] == ["above"] for found in names), names
    assert sum(len(found) > 1 for found in names) <= 1


def test_where_nothing_is_hidden_nothing_is_named() -> None:
    names = [[f.word for f in word_findings(probed("none", 0.2, 240, seed)[0].seen()) if f.named] for seed in range(4)]
    assert names.count([]) >= 3


def test_narrow_intervals_end_it_and_failing_prompts_hold_the_word() -> None:
    sightings, ended = probed("above", 0.0, 2000, 1, within=0.12)
    assert ended == "narrow" and sum(len(one.failed) for one in sightings.prompts.values()) < 600
    tallies = sightings.skills()
    assert all(
        tally.looked >= LEAST_PER_SKILL or skill in sightings.used_up for skill, tally in tallies.items()
    ) and tallies["counting"].failed == 0  # fmt: skip
    chances = failing_chances(sightings, word_findings(sightings.seen()), JudgeAccuracy(1.0, 1.0, 20, 20))
    assert {("above" in one.prompt.text) == (chances[key] > 0.5) for key, one in sightings.prompts.items()} == {True}


def test_false_alarms_are_not_called_failing_where_the_judge_is_overrated() -> None:
    """A fifth of its looks are wrong, but a small gold set said a tenth of the alarms are."""
    sightings, _ = probed("above", 0.2, 400, 2)
    overrated, findings = JudgeAccuracy(0.7, 0.9, 20, 20), word_findings(sightings.seen())
    chances = failing_chances(sightings, findings, overrated, cautious=True)
    called = [one.prompt.text for key, one in sightings.prompts.items() if one.tally.failed and chances[key] >= 0.5]
    assert sum("above" in text for text in called) > 0.9 * len(called) > 20


def test_the_same_sightings_plan_the_same_step() -> None:
    sightings, _ = probed("above", 0.2, 200, 3)
    findings, judge = word_findings(sightings.seen()), JudgeAccuracy(0.8, 0.8, 20, 20)
    one, other = (next_step(sightings, findings, ProbeSettings(seed=3), judge, 7) for _ in range(2))
    assert one == other and len(one.again) + sum(request.count for request, _ in one.write) == 48
    parents = [parent for _, parent in one.write if parent is not None]
    assert parents and all(sightings.prompts[parent.id].tally.failed for parent in parents)
    assert next_step(sightings, findings, ProbeSettings(seed=4), judge, 7) != one


def test_a_writer_that_repeats_itself_ends_it() -> None:
    world = World(("circle", "square"), ("red", "blue"), skills=("single_object",))
    sightings = Sightings()
    ended = probe(Pretend("red", 0.0, 500, 0, world), ProbeSettings(500), JudgeAccuracy(), sightings)
    assert ended in ("nothing new", "narrow") and len(sightings.prompts) == 4
    assert sightings.used_up == {"single_object"}


def test_a_writer_without_skills_is_asked_for_none() -> None:
    sightings = Sightings()
    sightings.add(Prompt.create("a red fox"), Answer("x", True))
    step = next_step(sightings, [], ProbeSettings(), JudgeAccuracy(), 1)
    assert all(request.skill is None for request, parent in step.write if parent is None)
    assert sightings.skills().keys() == {UNLABELLED}


@pytest.mark.parametrize(
    "wrong", [{"looks": 0}, {"cost_usd": -1.0}, {"cost_usd": float("nan")}, {"within": 1.0}, {"within": float("nan")}]
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match="Allowed"):
        ProbeSettings(**wrong)
