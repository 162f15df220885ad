"""Rewards in a round, and best-of-K selection from a self-teacher through public hooks only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolvedirector.evolution.budget import Budget
from evolvedirector.evolution.host import StudentPart
from evolvedirector.evolution.round import run_round
from evolvedirector.evolution.round_parts import Round, RoundInterrupted, RoundParts, RoundWatch, tenants_of
from evolvedirector.execution.local import LocalExecutor
from evolvedirector.policies.policy import RunSize
from evolvedirector.records import (
    Allowance,
    DatasetState,
    Decision,
    Evidence,
    FileRef,
    ImageAndPrompt,
    ImageReply,
    ImageRequest,
    RevisionChange,
    RoundInfo,
    RoundPlan,
    Sample,
    Score,
    TrainingMix,
    WriteRequest,
)
from evolvedirector.store.dataset import DatasetStore
from tests import toys


class SelfTeacher(toys.ToyTeacher):
    """Draws a tone that depends on the seed, and says with a file where it aimed."""

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[ImageReply]:
        for request in requests:
            self.asked.append(request.prompt)
            note = FileRef.of(f'{{"seed": {request.seed}}}'.encode(), "application/json")
            yield ImageReply(request.request_id, "image", toys.flat_png(request.seed % 256), files={"note": note})


class Brightness:
    """Finds bright images good; remembers how many it was asked about."""

    fingerprint = "brightness"

    def __init__(self) -> None:
        self.asked = 0

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        for item in items:
            self.asked += 1
            yield Score(item.item_id, toys.mean_tone(item.image))


class Blind(Brightness):
    """Can score nothing."""

    fingerprint = "blind"

    def score(self, items: Sequence[ImageAndPrompt]) -> Iterator[Score]:
        return (Score(item.item_id, math.nan) for item in items)


class BestOfK:
    """Write prompts, let the self-teacher draw K images of each, keep the one that the reward likes best."""

    fingerprint = "best of K"
    checks_seeds = False

    def __init__(self, images: int = 4, drawn_by: str | None = "self", reward: str = "bright") -> None:
        self.images, self.drawn_by, self.reward = images, drawn_by, reward
        self.seen: list[Evidence] = []

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        write = WriteRequest(f"w{round.round_id}", "mutation", None, "tone", 3, round.index)
        return RoundPlan(
            write=(write,), screen=False, score_candidates=True, drawn_by=self.drawn_by, images_per_prompt=self.images
        )

    def decide(
        self, state: DatasetState, evidence: Sequence[Evidence], allowance: Allowance, round: RoundInfo
    ) -> list[Decision]:
        self.seen = [item for item in evidence if item.kind == "score"]
        best: dict[str, Evidence] = {}
        for item in self.seen:
            kept = best.get(item.prompt_id)
            if kept is None or item.scores[self.reward] > kept.scores[self.reward]:
                best[item.prompt_id] = item
        return [
            Decision("buy", key, reason="best of K", image_sha256=item.teacher_sha256 or item.student_sha256)
            for key, item in best.items()
        ]

    def mix(self, state: DatasetState, evidence: Sequence[Evidence], round: RoundInfo) -> TrainingMix | None:
        return None

    def most_looks(self, size: RunSize) -> int | None:
        return 0


class Root:
    """A dataset with one given image, and rounds of best-of-K on it."""

    def __init__(self, folder: Path, policy: Any, budget: Budget | None = None, **rewards: Any) -> None:
        self.store = DatasetStore(folder, create=True)
        self.policy, self.budget = policy, budget or Budget()
        self.teacher, self.rewards = SelfTeacher("self"), rewards or {"bright": Brightness()}
        seed = toys.ToyPrompts(1).prompts()[0]
        image = self.store.blobs.put(toys.flat_png(1))
        self.sha = self.store.publish(None, "import", RevisionChange(samples=(Sample.create(seed, image, "given"),)))

    def round(self, watch: RoundWatch | None = None, seed: int = 0) -> str:
        student = StudentPart(lambda requests: [toys.flat_png(r.seed % 256) for r in requests])
        teachers, judge, writer = {"self": self.teacher}, toys.ToyJudge(), toys.ToyWriter()
        executor = LocalExecutor(tenants_of(student, teachers, judge, writer, self.rewards), unit=4)
        who = (student, teachers, judge, writer, self.policy)
        parts = RoundParts(self.store, executor, *who, self.budget, 8, rewards=self.rewards)
        return run_round(Round(parts, RoundInfo("r1", 0, 2, seed, 10, self.sha), watch or RoundWatch()))


@pytest.fixture
def root_of(tmp_path: Path):
    roots: list[Root] = []

    def make(*args: Any, **rewards: Any) -> Root:
        roots.append(Root(tmp_path / str(len(roots)), *args, **rewards))
        return roots[-1]

    yield make
    for root in roots:
        root.store.close()


def test_the_best_of_k_images_of_a_self_teacher_is_trained_on(root_of) -> None:
    root = root_of(BestOfK())
    state = root.store.state(root.round())
    bought = {e.prompt.id: e.sample for e in state.in_state("live") if e.sample and e.sample.teacher == "self"}
    assert len(bought) == 3 and len(root.teacher.asked) == 12 == root.store.ledger.spend().teacher_calls
    for prompt_id, sample in bought.items():
        tones = {item.teacher_sha256: item.scores["bright"] for item in root.policy.seen if item.prompt_id == prompt_id}
        assert len(tones) == 4 and tones[sample.image_sha256] == max(tones.values())
        assert b'"seed"' in root.store.blobs.get(sample.files["note"].sha256)
    (row,) = root.store.ledger.rounds.all()
    assert row.figures.scored == 12 and row.figures.decisions["buy"] == 3
    decided = root.store.ledger.rounds.decisions("r1")
    assert {d.image_sha256 for d in decided} == {sample.image_sha256 for sample in bought.values()}


def test_each_image_is_drawn_and_scored_once_however_often_the_round_is_broken_off(root_of) -> None:
    whole, broken = root_of(BestOfK()), root_of(BestOfK())
    expected = whole.round()
    for stops in range(1, 9):
        calls = iter(range(100))
        try:
            child = broken.round(RoundWatch(lambda calls=calls, stops=stops: "now" if next(calls) >= stops else None))
        except RoundInterrupted:
            continue
        break
    else:
        child = broken.round()
    assert child == expected
    assert len(broken.teacher.asked) == 12 and broken.rewards["bright"].asked == 12


def test_the_budget_limits_what_is_drawn_to_be_scored(root_of) -> None:
    root = root_of(BestOfK(), Budget(budget_teacher_calls=5))
    root.round()
    assert len(root.teacher.asked) == 5 and len(root.policy.seen) == 5


class Measuring(BestOfK):
    """Scores what the student draws, of a live prompt too, and buys nothing."""

    def plan(self, state: DatasetState, round: RoundInfo) -> RoundPlan:
        return replace(super().plan(state, round), score=tuple(state.entries))

    def decide(self, *args: Any) -> list[Decision]:
        super().decide(*args)
        return []


def test_the_students_images_are_scored_by_every_reward_that_can(root_of) -> None:
    root = root_of(Measuring(images=2, drawn_by=None), bright=Brightness(), blind=Blind())
    root.round()
    assert len(root.policy.seen) == 8 and root.teacher.asked == []
    assert {(item.teacher_sha256, tuple(item.scores)) for item in root.policy.seen} == {(None, ("bright",))}
    assert len({item.student_sha256 for item in root.policy.seen}) == 8
    assert root.store.ledger.looks.evidence("r1") == root.policy.seen


def test_an_image_of_the_student_itself_cannot_be_bought(root_of) -> None:
    with pytest.raises(ValueError, match=r"one of the 0 images that a teacher drew for scoring.*`drawn_by`"):
        root_of(BestOfK(drawn_by=None)).round()


@pytest.mark.parametrize(
    ("policy", "rewards", "message"),
    [
        (BestOfK(drawn_by="nobody"), None, "wants 'nobody' to draw what is scored, but no teacher is called so"),
        (BestOfK(images=0), None, r"images_per_prompt is 0\. Allowed: 1 or more"),
        (BestOfK(), {}, r"wants scores, but no reward takes part\."),
    ],
)
def test_a_plan_that_cannot_be_scored_is_told_so(root_of, policy: BestOfK, rewards: Any, message: str) -> None:
    root = root_of(policy)
    root.rewards = root.rewards if rewards is None else rewards
    with pytest.raises(ValueError, match=message):
        root.round()
